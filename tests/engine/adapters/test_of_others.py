"""LoRA files of other programs: read, inspected, converted, tried, merged, and started from, with the effect that they
have in their own program. The names are facts from the programs' own files and sources."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.adapters.applied import AppliedLoras
from engine.adapters.formats import (
    BARE,
    BFL,
    COMFYUI,
    DIFFUSERS,
    KOHYA,
    OLD_DIFFUSERS,
    OMI,
    ONETRAINER,
    PEFT,
    SIMPLETUNER,
    XLABS,
)
from engine.adapters.inspect import inspect_lora
from engine.adapters.kinds.lora import Lora
from engine.adapters.kinds.registry import trained_kind
from engine.adapters.network import AdapterNetwork
from engine.adapters.start import check_start
from engine.adapters.start_tensors import start_tensors
from engine.adapters.tools.convert import convert
from engine.adapters.tools.merge import merge
from engine.adapters.tools.requests import ConvertRequest, MergeRequest, ResizeRequest
from engine.adapters.tools.resize import resize
from engine.config.schema import NetworkTable, RunConfig
from engine.families.flux.targets import lora_targets
from engine.families.registry import family_of_lora
from engine.families.unet.names import unet_name
from engine.families.unet.targets import text_targets, unet_targets
from engine.types import LoraTarget
from tests import tiny_flux
from tests.engine.adapters.tools.conftest import deltas, silent
from tests.refusals import refused
from tests.tiny_models import tiny_parts
from tests.tiny_sdxl import sdxl_parts
from tui.main import run

RANK = 2
STYLES = {
    "lora_down": ("{}.lora_down.weight", "{}.lora_up.weight"),
    "lora_A": ("{}.lora_A.weight", "{}.lora_B.weight"),
    "default": ("{}.lora_A.default.weight", "{}.lora_B.default.weight"),
    "down": ("{}_lora.down.weight", "{}_lora.up.weight"),
    "numbered": ("{}.down.weight", "{}.up.weight"),
    "lora.down": ("{}.lora.down.weight", "{}.lora.up.weight"),
    "linear_layer": ("{}.lora_linear_layer.down.weight", "{}.lora_linear_layer.up.weight"),
}
"""Ends of the keys of a LoRA's matrices."""
Names = tuple[tuple[str, int], ...]
"""A program's modules for a layer, each with the number of diffusers layers that it covers; 0: all of them."""


@dataclass(frozen=True)
class Written:
    """How a program writes its files."""

    naming: str
    layers: Mapping[str, Names]
    style: str = "lora_down"
    text_style: str = ""
    alpha: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)
    maker: str = ""
    scale: float | None = None
    """The factor alpha / rank where the file has no alpha tensors."""


def whole(**names: str) -> dict[str, Names]:
    return {layer: ((name, 0),) for layer, name in names.items()}


# Kohya's layers by short names
UNET = {
    "sd15": {
        "k": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
        "out": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
        "proj": "lora_unet_mid_block_attentions_0_proj_in",
        "text": "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
    },
    "sdxl": {
        "k": "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
        "out": "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0",
        "proj": "lora_unet_middle_block_1_proj_in",
        "text": "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
        "text2": "lora_te2_text_model_encoder_layers_1_mlp_fc2",
    },
    "flux": {
        "qkv": "lora_unet_double_blocks_0_img_attn_qkv",
        "text_qkv": "lora_unet_double_blocks_0_txt_attn_qkv",
        "proj": "lora_unet_double_blocks_0_txt_attn_proj",
        "linear1": "lora_unet_single_blocks_0_linear1",
        "linear2": "lora_unet_single_blocks_0_linear2",
        "text": "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
    },
}
BLOCK = {"sd15": "down_blocks.0.attentions.0", "sdxl": "down_blocks.1.attentions.0"}
ORIGINAL = {"sd15": "input_blocks.1.1", "sdxl": "input_blocks.4.1"}
Q = "text_model.encoder.layers.0.self_attn.q_proj"
FC2 = "text_model.encoder.layers.1.mlp.fc2"


def unet_names(family: str, block: str, middle: str, prefix: str, texts: tuple[str, str], join: str = ".") -> Any:
    """Names that differ in prefixes and in the blocks' names only."""

    def name(path: str) -> str:
        return prefix + path.replace(".", join)

    names = whole(
        k=name(f"{block}.transformer_blocks.0.attn2.to_k"),
        out=name(f"{block}.transformer_blocks.0.attn1.to_out.0"),
        proj=name(f"{middle}.proj_in"),
        text=texts[0] + Q.replace(".", join if join == "_" else "."),
    )
    return names | (whole(text2=texts[1] + FC2.replace(".", join if join == "_" else ".")) if family == "sdxl" else {})


def unets(family: str) -> dict[str, Written]:
    block, original, middle = BLOCK[family], ORIGINAL[family], "mid_block.attentions.0"
    te = ("lora_te_", "") if family == "sd15" else ("lora_te1_", "lora_te2_")
    dotted = ("text_encoder.", "text_encoder_2.")
    old = unet_names(family, block, middle, "unet.", dotted)
    old |= whole(
        k=f"unet.{block}.transformer_blocks.0.attn2.processor.to_k",
        out=f"unet.{block}.transformer_blocks.0.attn1.processor.to_out",
    )
    oldest = {layer: ((names[0][0].removeprefix("unet."), 0),) for layer, names in old.items() if "text" not in layer}
    settings = json.dumps({f"{part}.lora_alpha": 1 for part in ("unet", "text_encoder", "text_encoder_2")})
    omi = unet_names(family, original, "middle_block.1", "unet.", ("clip_l.", "clip_g."))
    result = {
        "diffusers": Written(DIFFUSERS, unet_names(family, block, middle, "unet.", dotted), "lora_A", alpha=False),
        "diffusers with metadata": Written(
            DIFFUSERS, unet_names(family, block, middle, "unet.", dotted), "lora_A", alpha=False,
            metadata={"lora_adapter_metadata": settings}, maker="diffusers", scale=1 / RANK,
        ),
        "old diffusers, processors": Written(OLD_DIFFUSERS, old, "down", "linear_layer", alpha=False),
        "oldest diffusers, no prefix": Written(OLD_DIFFUSERS, oldest, "down", alpha=False),
        "peft": Written(
            PEFT,
            {layer: names for layer, names in unet_names(family, block, middle, "base_model.model.", dotted).items()
             if "text" not in layer},
            "lora_A", alpha=False,
        ),
        "comfy": Written(
            COMFYUI,
            unet_names(family, original, "middle_block.1", "diffusion_model.",
                       ("text_encoders.clip_l.transformer.", "text_encoders.clip_g.transformer.")),
        ),
        "OneTrainer, legacy": Written(
            KOHYA, unet_names(family, block, middle, "lora_unet_", te, "_"),
            metadata={"ot_branch": "master", "ot_revision": "23df38320123456789ab"}, maker="OneTrainer 23df3832",
        ),
        "OneTrainer, OMI": Written(OMI, omi, maker="OneTrainer"),
        "SimpleTuner, LyCORIS": Written(
            SIMPLETUNER,
            {layer: names for layer, names in unet_names(family, block, middle, "lycoris_", ("", ""), "_").items()
             if "text" not in layer},
            maker="SimpleTuner or ai-toolkit, with LyCORIS' names",
        ),
        "LyCORIS": Written(
            KOHYA, unet_names(family, block, middle, "lora_unet_", te, "_"),
            metadata={"ss_network_module": "lycoris.kohya"}, maker="LyCORIS",
        ),
        "ai-toolkit": Written(
            KOHYA, unet_names(family, original if family == "sdxl" else block,
                              "middle_block.1" if family == "sdxl" else middle, "lora_unet_", te, "_"),
            metadata={"software": '{"name": "ai-toolkit", "version": "0.1.0"}'}, maker="ai-toolkit 0.1.0",
        ),
    }  # fmt: skip
    return result


def double(prefix: str, end: str = "") -> dict[str, Names]:
    """Separate query, key and value, as diffusers has them."""
    front = f"{prefix}transformer_blocks.0.attn."
    single = f"{prefix}single_transformer_blocks.0."
    return {
        "qkv": tuple((f"{front}to_{letter}", 1) for letter in "qkv"),
        "text_qkv": tuple((f"{front}add_{letter}_proj", 1) for letter in "qkv"),
        "proj": ((f"{front}to_add_out", 0),),
        "linear1": (*((f"{single}attn.to_{letter}", 1) for letter in "qkv"), (f"{single}proj_mlp", 1)),
        "linear2": ((f"{single}proj_out", 0),),
    }


def fused(prefix: str, join: str = ".") -> dict[str, Names]:
    """Fused layers, as Black Forest Labs has them."""
    names = {
        "qkv": "double_blocks.0.img_attn.qkv",
        "text_qkv": "double_blocks.0.txt_attn.qkv",
        "proj": "double_blocks.0.txt_attn.proj",
        "linear1": "single_blocks.0.linear1",
        "linear2": "single_blocks.0.linear2",
    }
    return {layer: ((prefix + name.replace(".", join), 0),) for layer, name in names.items()}


def underscored(layers: Mapping[str, Names], prefix: str) -> dict[str, Names]:
    return {layer: tuple((prefix + name.replace(".", "_"), n) for name, n in names) for layer, names in layers.items()}


FLUX_TEXT = {"text": ((f"text_encoder.{Q}", 0),)}
KOHYA_TEXT = whole(text="lora_te1_" + Q.replace(".", "_"))
OMI_FLUX: dict[str, Names] = {
    **{layer: names for layer, names in fused("transformer.").items() if layer in ("proj", "linear2")},
    "qkv": tuple((f"transformer.double_blocks.0.img_attn.qkv.{number}", 1) for number in range(3)),
    "text_qkv": tuple((f"transformer.double_blocks.0.txt_attn.qkv.{number}", 1) for number in range(3)),
    "linear1": tuple((f"transformer.single_blocks.0.linear1.{number}", 1) for number in range(4)),
    "text": ((f"clip_l.{Q}", 0),),
}
X_FLUX: dict[str, Names] = {
    "qkv": (("double_blocks.0.processor.qkv_lora1", 0),),
    "text_qkv": (("double_blocks.0.processor.qkv_lora2", 0),),
    "proj": (("double_blocks.0.processor.proj_lora2", 0),),
    "linear1": (("single_blocks.0.processor.qkv_lora", 3),),
    "linear2": (("single_blocks.0.processor.proj_lora", 0),),
}
FLUX = {
    "diffusers": Written(DIFFUSERS, double("transformer.") | FLUX_TEXT, "lora_A", alpha=False),
    "diffusers with alphas": Written(DIFFUSERS, double("transformer.") | FLUX_TEXT, "lora_A"),
    "ai-toolkit": Written(
        DIFFUSERS, double("transformer."), "lora_A", alpha=False,
        metadata={"software": '{"name": "ai-toolkit"}'}, maker="ai-toolkit",
    ),
    "SimpleTuner": Written(
        DIFFUSERS, double("transformer."), "lora_A", alpha=False, scale=1 / RANK, maker="diffusers",
        metadata={"lora_adapter_metadata": '{"transformer.lora_alpha": 1}'},
    ),
    "old SimpleTuner": Written(PEFT, double("transformer.base_model.model."), "lora.down", alpha=False),
    "SimpleTuner, LyCORIS": Written(
        SIMPLETUNER, underscored(double(""), "lycoris_"), maker="SimpleTuner or ai-toolkit, with LyCORIS' names"
    ),
    "peft": Written(PEFT, double("base_model.model."), "lora_A", alpha=False),
    "fal": Written(PEFT, fused("base_model.model."), "lora_A", alpha=False),
    "DiffSynth": Written(BARE, double(""), "default", alpha=False),
    "OneTrainer, legacy": Written(ONETRAINER, underscored(double(""), "lora_transformer_") | KOHYA_TEXT,
                                  maker="OneTrainer"),
    "OneTrainer, OMI": Written(OMI, OMI_FLUX, maker="OneTrainer"),
    "comfy": Written(COMFYUI, fused("diffusion_model.") | {"text": ((f"text_encoders.clip_l.transformer.{Q}", 0),)}),
    "comfy in peft's style": Written(COMFYUI, fused("diffusion_model."), "lora_A", alpha=False),
    "Black Forest Labs": Written(BFL, fused(""), "lora_A", alpha=False, maker="Black Forest Labs"),
    "XLabs": Written(XLABS, X_FLUX, "numbered", alpha=False, maker="XLabs"),
    "musubi-tuner": Written(
        KOHYA, fused("lora_unet_", "_") | KOHYA_TEXT,
        metadata={"modelspec.implementation_version": "musubi-tuner/unknown"}, maker="musubi-tuner",
    ),
}  # fmt: skip
FORMATS = {"sd15": unets("sd15"), "sdxl": unets("sdxl"), "flux": FLUX}
CASES = [(family, name) for family, formats in FORMATS.items() for name in formats]
BASES = {"sd15": "SD 1.5", "sdxl": "SDXL", "flux": "FLUX"}


@dataclass
class World:
    """A tiny model of a family."""

    components: dict[str, Any]
    targets: list[LoraTarget]

    def shape(self, target: LoraTarget) -> tuple[list[int], tuple[int, ...]]:
        """(outputs of each layer, the inner shape of the down matrix)."""
        layers = [self.components[target.component].get_submodule(path) for path in target.paths]
        return [len(layer.weight) for layer in layers], tuple(layers[0].weight.shape[1:])


@functools.cache
def world(family: str) -> World:
    if family == "flux":
        parts = tiny_flux.tiny_parts()
        components = {name: parts[name] for name in ("text_encoder", "transformer")}
        return World(components, lora_targets(parts["text_encoder"], parts["transformer"]))
    parts = tiny_parts() if family == "sd15" else sdxl_parts()
    unet = parts["unet"]

    def kohya(path: str) -> str:
        return "lora_unet_" + (path if family == "sd15" else unet_name(path, unet.config)).replace(".", "_")

    encoders = {"text_encoder": "lora_te_"} if family == "sd15" else {
        "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"
    }  # fmt: skip
    targets = [target for name, prefix in encoders.items() for target in text_targets(parts[name], name, prefix)]
    components = {name: parts[name] for name in (*encoders, "unet")}
    return World(components, [*targets, *unet_targets(unet, kohya, conv=True)])


WIDTHS = {"sd15": 768, "sdxl": 2048}
"""Of the text embeddings of real models, by which files are recognised."""


def made(family: str, name: str, *, wide: bool = False) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Tensor]]:
    """(tensors, metadata, ΔW as a matrix by Kohya's layer) of a file of that program for the tiny model.

    Args:
        wide: with text embeddings as wide as those of a real model.
    """
    written, generator = FORMATS[family][name], torch.Generator().manual_seed(7)
    by_name = {target.kohya_name: target for target in world(family).targets}
    tensors: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    for layer, modules in written.layers.items():
        widths, inner = world(family).shape(by_name[UNET[family][layer]])
        inner = (WIDTHS[family],) if wide and layer == "k" else inner
        rows, number = [], 0
        for module, count in modules:
            covered = widths[number : number + count] if count else widths
            number += len(covered)
            down = torch.randn(RANK, *inner, generator=generator) / 4
            up = torch.randn(sum(covered), RANK, *(1 for _ in inner[1:]), generator=generator) / 4
            style = (written.text_style or written.style) if "text" in layer and "qkv" not in layer else written.style
            ends = STYLES[style]
            if style == "down" and not module.endswith(("to_k", "to_out")):
                ends = STYLES["lora.down"]
            module = module.removesuffix("_lora") if style == "down" else module
            tensors |= {ends[0].format(module): down, ends[1].format(module): up}
            alpha = 1.0 + number if written.alpha else RANK * (written.scale or 1.0)
            if written.alpha:
                tensors[f"{module}.alpha"] = torch.tensor(alpha)
            rows.append(up.flatten(1) @ down.flatten(1) * (alpha / RANK))
        rest = sum(widths) - sum(len(row) for row in rows)
        changes[UNET[family][layer]] = torch.cat([*rows, torch.zeros(rest, rows[0].shape[1])])
    return tensors, dict(written.metadata), changes


def file_of(family: str, name: str, folder: Path, *, wide: bool = False) -> tuple[Path, dict[str, Tensor]]:
    tensors, metadata, changes = made(family, name, wide=wide)
    path = folder / "theirs.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata or None)
    return path, changes


def close(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_inspect_knows_it(family: str, name: str, tmp_path: Path) -> None:
    path, _ = file_of(family, name, tmp_path, wide=True)
    report = inspect_lora(path)
    written = FORMATS[family][name]
    assert (report.kind, report.base, report.naming) == ("LoRA", BASES[family], written.naming)
    assert (report.problems, report.no_start, report.maker) == ([], None, written.maker)
    if written.scale is not None:
        assert report.alphas == {f"{written.scale * RANK:g}": len(load_file(path)) // 2}


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_training_starts_with_its_effect(family: str, name: str, tmp_path: Path) -> None:
    path, changes = file_of(family, name, tmp_path)
    place, messages = world(family), list[str]()
    table = NetworkTable(network_weights=str(path), dim_from_weights=True)
    config = RunConfig().model_copy(update={"network": table}).changed(training={"text_encoder_lr": 1e-4})
    check_start(config, family_of_lora(BASES[family]))
    tensors = start_tensors(path, Lora(), BASES[family], place.targets, place.components, messages.append)
    assert messages == []
    network = attached(place, table, tensors)
    assert {module.target.kohya_name for module in network.modules} == changes.keys()
    for module in network.modules:
        state = module.state()
        change = state["lora_up.weight"].flatten(1) @ state["lora_down.weight"].flatten(1)
        close(change * (float(state["alpha"]) / len(state["lora_down.weight"])), changes[module.target.kohya_name])
    if not any(count for names in FORMATS[family][name].layers.values() for _, count in names):
        theirs = sorted((tuple(t.shape), float(t.sum())) for key, t in load_file(path).items() if "alpha" not in key)
        ours = sorted((tuple(t.shape), float(t.sum())) for key, t in network.state().items() if "alpha" not in key)
        assert ours == theirs, "nothing is joined, so no number changes"


def attached(place: World, table: NetworkTable, tensors: Mapping[str, Tensor]) -> AdapterNetwork:
    """On copies of the model."""
    import copy

    components = {name: copy.deepcopy(part) for name, part in place.components.items()}
    return AdapterNetwork.attach(
        trained_kind(table), components, place.targets, network=table, weights=dict(tensors), log=lambda _: None
    )


def test_a_training_starts_from_a_dora_in_pefts_names(tmp_path: Path) -> None:
    """Whose norms are those of outputs, as vectors."""
    path, place = tmp_path / "dora.safetensors", world("sd15")
    tensors, _, changes = made("sd15", "diffusers")
    ups = {key: tensor for key, tensor in tensors.items() if key.endswith("lora_B.weight") and tensor.ndim == 2}
    norms = {key.replace("lora_B.weight", "lora_magnitude_vector"): torch.rand(len(up)) for key, up in ups.items()}
    whole = tensors.keys() & {key.replace("lora_B", end) for key in ups for end in ("lora_A", "lora_B")}
    save_file({**{key: tensors[key] for key in whole}, **norms}, path)
    table = NetworkTable(
        **{"network_weights": str(path), "dim_from_weights": True, "dora_wd": True, "wd_on_output": True}
    )
    config = RunConfig().model_copy(update={"network": table}).changed(training={"text_encoder_lr": 1e-4})
    check_start(config, family_of_lora(BASES["sd15"]))
    loaded = start_tensors(path, trained_kind(table), BASES["sd15"], place.targets, place.components, pytest.fail)
    network = attached(place, table, loaded)
    assert len(network.modules) == len(norms) > 2
    for module in network.modules:
        name = module.target.kohya_name
        weight = place.components[module.target.component].get_submodule(module.target.path).weight
        merged = weight + changes[name]
        (norm,) = [tensor for key, tensor in loaded.items() if key == f"{name}.dora_scale"]
        expected = merged * (norm.reshape(-1) / merged.norm(dim=1)).reshape(-1, 1)
        layer = module.layers[0]
        x = torch.eye(weight.shape[1])
        bias = 0 if layer.bias is None else layer.bias
        close((layer(x) - bias).T, expected)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_it_is_converted_to_kohyas_names_and_merged_with_the_same_change(
    family: str, name: str, tmp_path: Path
) -> None:
    path, changes = file_of(family, name, tmp_path, wide=True)
    out = tmp_path / "kohya.safetensors"
    convert(ConvertRequest(file=str(path), to="kohya", out=str(out)), silent)
    for converted in (deltas(path), deltas(out)):
        assert converted.keys() == changes.keys()
        for layer, change in changes.items():
            close(converted[layer], change)
    merge(MergeRequest(files=[(str(path), 0.5), (str(out), 0.25)], out=str(tmp_path / "merged.safetensors")), silent)
    for layer, change in deltas(tmp_path / "merged.safetensors").items():
        close(change, 0.75 * changes[layer])


@pytest.mark.parametrize(("family", "name"), [("sd15", "comfy"), ("sdxl", "comfy"), ("flux", "diffusers")])
@pytest.mark.parametrize("to", ["diffusers", "comfy"])
def test_there_and_back_gives_the_same_tensors(family: str, name: str, to: Any, tmp_path: Path) -> None:
    path, _ = file_of(family, name, tmp_path, wide=True)
    places = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for source, target, out in zip((path, *places), ("kohya", to, "kohya"), places, strict=False):
        convert(ConvertRequest(file=str(source), to=target, out=str(out)), silent)
    before, after = load_file(places[0]), load_file(places[2])
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    written = inspect_lora(places[1])
    assert written.naming == {"diffusers": DIFFUSERS, "comfy": COMFYUI}[to] and written.problems == []


@pytest.mark.parametrize(("family", "name"), CASES)
def test_it_is_applied_to_the_layers(family: str, name: str, tmp_path: Path) -> None:
    path, changes = file_of(family, name, tmp_path)
    place, messages = world(family), list[str]()
    model: Any = SimpleNamespace(
        trainable=place.components,
        lora_targets=lambda conv: place.targets,
        norm_targets=lambda conv: [],
        outer_targets=list,
    )
    applied = AppliedLoras(model, [path], BASES[family], messages.append)
    applied.set_strengths([1.0])
    try:
        assert messages == []
        for target in place.targets:
            layers = [place.components[target.component].get_submodule(path) for path in target.paths]
            difference = torch.cat([effect(layer) for layer in layers])
            close(difference, changes.get(target.kohya_name, torch.zeros_like(difference)))
    finally:
        applied.remove()


@torch.no_grad()
def effect(layer: nn.Module) -> Tensor:
    """What the hooks of a layer add to its weight, as a matrix; 0 where it has none."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    if not layer._forward_hooks or (weight.ndim == 4 and weight.shape[2:] != (1, 1)):
        return torch.zeros(len(weight), weight[0].numel())
    inputs = torch.eye(weight.shape[1])
    if weight.ndim == 4:
        inputs = inputs[:, :, None, None]
    plain = nn.functional.linear(inputs, weight) if weight.ndim == 2 else nn.functional.conv2d(inputs, weight)
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    output = layer(inputs) - plain
    if bias is not None:
        output = output - (bias if weight.ndim == 2 else bias.reshape(1, -1, 1, 1))
    return output.flatten(1).T


def kron(*names: str, sides: tuple[int, int] = (8, 8)) -> dict[str, Tensor]:
    """A LoKr with full factors for each module, as SimpleTuner and ai-toolkit write them."""
    generator = torch.Generator().manual_seed(3)
    tensors = {f"{name}.lokr_w1": torch.randn(8, 8, generator=generator) / 8 for name in names}
    return tensors | {f"{name}.lokr_w2": torch.randn(*sides, generator=generator) / 8 for name in names}


OTHER_KINDS: dict[str, tuple[dict[str, Tensor], str, bool]] = {
    # tensors, Kohya's layer, whether the names can be changed exactly
    "ai-toolkit, FLUX": (
        kron(*(f"lycoris_transformer_blocks_0_attn_to_{letter}" for letter in "qkv"),
             "lycoris_single_transformer_blocks_0_norm_linear"),
        "lora_unet_double_blocks_0_img_attn_qkv",
        False,
    ),
    "query alone": (
        kron("lycoris_single_transformer_blocks_0_attn_to_q"), "lora_unet_single_blocks_0_linear1", False
    ),
    "native names, FLUX": (
        kron("diffusion_model.double_blocks.0.img_attn.qkv", sides=(24, 8)),
        "lora_unet_double_blocks_0_img_attn_qkv",
        True,
    ),
    "SimpleTuner, SDXL": (
        kron("lycoris_down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_k", sides=(8, 256)),
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k",
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_another_kind_is_renamed_exactly_or_becomes_a_lora_with_its_loss(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, layer, is_exact = OTHER_KINDS[name]
    path, out, small = (tmp_path / f"{end}.safetensors" for end in ("theirs", "kohya", "small"))
    save_file(tensors, path)
    inspected = inspect_lora(path)
    assert inspected.kind == "LoKr" and inspected.problems == [] and (inspected.no_start is None) == is_exact
    assert run(["inspect", str(path)]) == 0
    assert f"with its loss: lorasmith lora resize {path} --rank" in capsys.readouterr().out
    modules = dict.fromkeys(key.rpartition(".")[0] for key in tensors if "norm_linear" not in key)
    change = torch.cat([torch.kron(tensors[f"{name}.lokr_w1"], tensors[f"{name}.lokr_w2"]) for name in modules])
    if is_exact:
        convert(ConvertRequest(file=str(path), to="comfy", out=str(tmp_path / "comfy.safetensors")), silent)
        convert(ConvertRequest(file=str(tmp_path / "comfy.safetensors"), to="kohya", out=str(out)), silent)
        written = load_file(out)
        assert {key.partition(".")[0] for key in written} == {layer}
        assert sorted(map(str, written.values())) == sorted(map(str, tensors.values()))
    for to in ("diffusers",) if is_exact else ("kohya", "comfy", "diffusers", "peft"):
        with refused("lora-kind-not-convertible", "lorasmith lora resize"):
            convert(ConvertRequest(file=str(path), to=to, out=str(tmp_path / "no")), silent)  # type: ignore[arg-type]
    report = resize(ResizeRequest(file=str(path), out=str(small), rank=4, precision="float"), silent)
    result = deltas(small)[layer]
    assert result.shape[1] == change.shape[1] and not result[len(change) :].any()
    lost = float((result[: len(change)] - change).norm() / change.norm())
    stated = next(loss.share for loss in report.layers if loss.name == layer)
    assert abs(stated - lost) < 1e-3 and 0.1 < lost < 1
    assert inspect_lora(small).no_start is None


def test_a_lora_of_a_control_model_is_one_and_cannot_be_trained_on(tmp_path: Path) -> None:
    """FLUX.1-Canny-dev-lora and its like: biases, norms, and twice the channels."""
    path = tmp_path / "canny.safetensors"
    tensors = {
        f"{name}.{end}": torch.ones(shape)
        for name, inputs, outputs in (("img_in", 128, 3072), ("double_blocks.0.img_attn.qkv", 3072, 9216))
        for end, shape in (
            ("lora_A.weight", (4, inputs)), ("lora_B.weight", (outputs, 4)), ("lora_B.bias", (outputs,))
        )
    }  # fmt: skip
    save_file(tensors | {"single_blocks.0.norm.key_norm.scale": torch.ones(128)}, path)
    report = inspect_lora(path)
    assert (report.kind, report.base, report.problems, report.other_way) == ("LoRA", "FLUX", [], None)
    assert "biases, of 2 layers" in str(report.no_start) and "Control" in str(report.no_start)
    with refused("lora-changes-biases"):
        convert(ConvertRequest(file=str(path), to="kohya", out=str(tmp_path / "no")), silent)


def test_a_layer_in_two_namings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.safetensors"
    names = ("transformer.transformer_blocks.0.attn.to_q", "lora_unet_double_blocks_0_img_attn_qkv")
    pairs = zip(names, ((64, 64), (64, 192)), ("lora_A", "lora_down"), strict=True)
    tensors = {}
    for name, (inputs, outputs), style in pairs:
        down, up = STYLES[style]
        tensors |= {down.format(name): torch.ones(2, inputs), up.format(name): torch.ones(outputs, 2)}
    save_file(tensors, path)
    assert "1 layers twice" in str(inspect_lora(path).no_start)
    with refused("lora-layer-twice"):
        deltas(path)


def test_embeddings_stay_behind_and_ranks_are_checked_before_the_start(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors, _, _ = made("flux", "diffusers")
    save_file({**tensors, "bundle_emb.cat.clip_l": torch.ones(2, 8)}, path)
    config = RunConfig().changed(network={"network_weights": str(path), "network_dim": 6}, training={"unet_lr": 1e-4})
    notes = check_start(config.changed(network={"dim_from_weights": True}), family_of_lora("FLUX"))
    assert "13 modules, which are 6 layers here" in notes[0] and "cat" in notes[1]
    with refused("lora-wrong-shape", [2, 32], [6, 32]):
        check_start(config, family_of_lora("FLUX"))


def keys(name: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{end}": tensor for end, tensor in parts.items()}


NORM = {"w_norm": torch.ones(32), "b_norm": torch.ones(32)}
LOHA = {
    f"hada_w{number}_{side}": torch.ones(*sides) for number in "12" for side, sides in (("a", (8, 2)), ("b", (2, 768)))
}
KEY = "transformer_blocks.0.attn2.to_k"
STARTS: dict[str, tuple[dict[str, Tensor], dict[str, Any], str | None]] = {
    # tensors, settings of the run, the error's code
    "ComfyUI's": (keys(f"diffusion_model.input_blocks.1.1.{KEY}", LOHA), {"algo": "loha"}, None),
    "SimpleTuner's": (
        keys("lycoris_down_blocks_0_attentions_0_" + KEY.replace(".", "_"), LOHA),
        {"algo": "loha"},
        None,
    ),
    "with norm layers": (
        keys("lora_unet_down_blocks_0_attentions_0_" + KEY.replace(".", "_"), LOHA)
        | keys("lora_unet_down_blocks_0_attentions_0_norm", NORM),
        {"algo": "loha", "train_norm": True},
        None,
    ),
    "another rank": (
        keys(f"diffusion_model.input_blocks.1.1.{KEY}", LOHA),
        {"algo": "loha", "network_dim": 4},
        "lora-wrong-rank",
    ),
    "a LoRA is trained": (keys(f"diffusion_model.input_blocks.1.1.{KEY}", LOHA), {}, "lora-of-other-kind"),
    "a LoKr is trained": (
        keys(f"diffusion_model.input_blocks.1.1.{KEY}", LOHA),
        {"algo": "lokr"},
        "lora-of-other-kind",
    ),
    "DoRA": (
        keys(f"diffusion_model.input_blocks.1.1.{KEY}", LOHA | {"dora_scale": torch.ones(8, 1)}),
        {"algo": "loha"},
        "lora-of-other-kind",
    ),
    "a DoRA is trained": (
        keys(f"diffusion_model.input_blocks.1.1.{KEY}", LOHA | {"dora_scale": torch.ones(1, 8)}),
        {"algo": "loha", "dora_wd": True},
        None,
    ),
    "a DoRA by inputs is trained": (
        keys(f"diffusion_model.input_blocks.1.1.{KEY}", LOHA | {"dora_scale": torch.ones(8, 1)}),
        {"algo": "loha", "dora_wd": True},
        "lora-of-other-norms",
    ),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_start_of_another_kind_needs_that_kind(name: str, tmp_path: Path) -> None:
    tensors, settings, code = STARTS[name]
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    network = {"network_weights": str(path), "network_dim": 2, "network_module": "lycoris.kohya", **settings}
    config = RunConfig().changed(network=network)
    with nullcontext() if code is None else refused(code):
        notes = check_start(config, family_of_lora("SD 1.5"))
        assert [note.endswith(": 1 module.") for note in notes] == ([] if name == "with norm layers" else [True])
