"""Kinds whose change depends on the base's weights, norm layers and biases: into a checkpoint, and as LoRAs. Expected
weights are those of the reader that shares no formula with the kinds (`engine.adapters.merged_reader`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.adapters.key_formats import file_tensors
from engine.adapters.kinds.registry import trained_kind
from engine.adapters.merged_reader import merged
from engine.adapters.network import AdapterNetwork
from engine.adapters.tools.convert import convert
from engine.adapters.tools.lora_file import read_lora
from engine.adapters.tools.merge import merge
from engine.adapters.tools.report import ToolReport
from engine.adapters.tools.requests import ConvertRequest, MergeRequest, ResizeRequest
from engine.adapters.tools.resize import resize
from engine.adapters.weights import NORMS, joined_weight
from engine.config import RunConfig
from engine.config.network import NetworkTable
from engine.families.base import Model
from engine.families.registry import recognise
from engine.families.resolved import resolve_run
from engine.families.spec import FamilySpec
from tests.engine.adapters.tools.conftest import Tensors, silent
from tests.engine.adapters.tools.test_into import MAKERS, VERSIONS, components_of, run
from tests.families.conformance import KINDS
from tests.refusals import refused

CASES = [
    *(("SD 1.5 file", algo) for algo in ("diag-oft", "boft", "glora", "ia3", "full")),
    *(("SDXL file", algo) for algo in ("diag-oft", "full")),
    *(("FLUX folder", algo) for algo in ("diag-oft", "glora", "full")),
]


def model_of(path: Path) -> tuple[Model, FamilySpec]:
    config = RunConfig().changed(
        model={"pretrained_model_name_or_path": str(path)},
        training={"text_encoder_lr": 1e-4},
        memory={"device": "cpu"},
    )
    resolved = resolve_run(config, recognise(path))
    model = resolved.family.load(resolved.config, resolved.recognition, "cpu", "fp32", lambda _: None)
    return model, resolved.family.spec


def file_of(checkpoint: Path, base: str, path: Path, algo: str) -> tuple[Path, dict[str, Any]]:
    """A file of this kind with random numbers on every layer and norm layer, and its targets by Kohya's name."""
    model, spec = model_of(checkpoint)
    table = {"algo": algo, "network_dim": 2, "network_alpha": 1.0, "train_norm": True, **KINDS[algo]}
    network = NetworkTable(network_module="lycoris.kohya", **table)
    kind = trained_kind(network)
    conv = kind.takes_convolutions(network)
    targets = model.lora_targets(conv=conv) + model.norm_targets(conv=conv)
    made = AdapterNetwork.attach(kind, model.trainable, targets, network=network, log=lambda _: None)
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    tensors = {key: tensor.contiguous() for key, tensor in file_tensors(made, spec, "kohya")[0].items()}
    save_file(tensors, path, {"ss_base_model_version": VERSIONS[base.rpartition(" ")[0]]})
    return path, {target.kohya_name: target for target in targets}


def parts_of(path: Path) -> dict[str, Tensors]:
    """The tensors of each module by the ends of their keys, float32."""
    modules: dict[str, Tensors] = {}
    for key, tensor in load_file(path).items():
        name, _, end = key.partition(".")
        modules.setdefault(name, {})[end] = tensor.float()
    return modules


def layers_at(components: dict[str, nn.Module], target: Any) -> list[Any]:
    return [components[target.component].get_submodule(path) for path in target.paths]


def biases(layers: list[Any]) -> Tensor | None:
    return None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])


@pytest.mark.parametrize(("base", "algo"), CASES)
@torch.no_grad()
def test_every_weight_is_as_another_program_merges_it(base: str, algo: str, tmp_path: Path) -> None:
    path = MAKERS[base][0](tmp_path)
    file, targets = file_of(path, base, tmp_path / "kind.safetensors", algo)
    out = tmp_path / ("out" if path.is_dir() else "out.safetensors")
    report = run([(file, 1.0)], path, out)
    assert report.loss is not None and report.loss.worst < 1e-4 and not report.left_out
    before, after = components_of(path), components_of(out)
    modules, norms, bias_changes = parts_of(file), 0, 0
    for name, parts in modules.items():
        plain, new = (layers_at(components, targets[name]) for components in (before, after))
        if isinstance(plain[0], NORMS):
            norms += 1
            torch.testing.assert_close(new[0].weight, plain[0].weight + parts["w_norm"])
            torch.testing.assert_close(new[0].bias, plain[0].bias + parts["b_norm"])
            continue
        expected = merged(joined_weight(plain), parts)
        torch.testing.assert_close(joined_weight(new), expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(joined_weight(new), joined_weight(plain), atol=1e-4), name
        if "diff_b" in parts:
            bias_changes += 1
            torch.testing.assert_close(biases(new), biases(plain) + parts["diff_b"])  # type: ignore[operator]
        elif (bias := biases(plain)) is not None:
            assert torch.equal(bias, biases(new))  # type: ignore[arg-type]
    assert (norms > 0) == (base != "FLUX folder") and (bias_changes > 0) == (algo == "full")


@pytest.mark.parametrize("axis", [0, 1])
@torch.no_grad()
def test_dora_on_either_axis_at_any_strength(axis: int, tmp_path: Path) -> None:
    """W + s · (m ⊙ (W + ΔW) / ‖W + ΔW‖ − W), with the norms of rows or of columns."""
    path = MAKERS["SD 1.5 file"][0](tmp_path)
    layer = "unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    name = f"lora_unet_{layer[1].replace('.', '_')}"
    before = components_of(path)[layer[0]].get_submodule(layer[1]).weight
    generator = torch.Generator().manual_seed(0)
    out, inputs = before.shape
    down, up = torch.randn(4, inputs, generator=generator) / 30, torch.randn(out, 4, generator=generator)
    direction = before + up @ down * 0.5
    norms = direction.norm(dim=1 - axis, keepdim=True)
    magnitude = norms * (1 + torch.rand(norms.shape, generator=generator))
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(2.0), "dora_scale": magnitude}
    file = tmp_path / "dora.safetensors"
    save_file({f"{name}.{end}": tensor for end, tensor in tensors.items()}, file, {"ss_base_model_version": "sd_v1"})
    run([(file, 0.5)], path, tmp_path / "out.safetensors")
    after = components_of(tmp_path / "out.safetensors")[layer[0]].get_submodule(layer[1]).weight
    change = magnitude * direction / norms - before
    torch.testing.assert_close(after, before + 0.5 * change)
    report = resized(file, path, tmp_path / "lora.safetensors", rank=min(out, inputs))
    assert report.loss is not None and report.loss.worst < 1e-5
    lora = read_lora(tmp_path / "lora.safetensors").layers[name]
    torch.testing.assert_close(lora.delta(), change, rtol=1e-3, atol=1e-5)


def resized(file: Path, base: Path | None, out: Path, *, rank: int) -> ToolReport:
    request = ResizeRequest(file=str(file), rank=rank, base=None if base is None else str(base), out=str(out))
    return resize(request, silent)


@pytest.mark.parametrize(
    ("base", "algo"), [("SD 1.5 file", "diag-oft"), ("FLUX folder", "glora"), ("SDXL file", "ia3")]
)
@torch.no_grad()
def test_the_lora_of_a_full_rank_is_the_same_change(base: str, algo: str, tmp_path: Path) -> None:
    path = MAKERS[base][0](tmp_path)
    file, targets = file_of(path, base, tmp_path / "kind.safetensors", algo)
    report = resized(file, path, tmp_path / "lora.safetensors", rank=1024)
    assert report.loss is not None and report.loss.worst < 1e-4
    modules = {name: parts for name, parts in parts_of(file).items() if "w_norm" not in parts}
    assert len(report.left_out) == 2 * (len(parts_of(file)) - len(modules))
    before, lora = components_of(path), read_lora(tmp_path / "lora.safetensors").layers
    assert lora.keys() == modules.keys()
    for name, parts in modules.items():
        weight = joined_weight(layers_at(before, targets[name]))
        torch.testing.assert_close(
            lora[name].delta().reshape(weight.shape), merged(weight, parts) - weight, rtol=1e-3, atol=1e-4
        )
    cut = resized(file, path, tmp_path / "cut.safetensors", rank=2)
    assert cut.loss is not None and cut.loss.total > 100 * report.loss.total


def test_two_kinds_at_once_are_their_sum(tmp_path: Path) -> None:
    path = MAKERS["SD 1.5 file"][0](tmp_path)
    files = [file_of(path, "SD 1.5 file", tmp_path / f"{algo}.safetensors", algo)[0]
             for algo in ("glora", "lora")]  # fmt: skip
    for place, file in enumerate(files):
        run([(file, 1.0)], path, tmp_path / f"{place}.safetensors")
    run([(file, 1.0) for file in files], path, tmp_path / "both.safetensors")
    before, first, second, both = (
        load_file(name) for name in (path, *(tmp_path / f"{name}.safetensors" for name in ("0", "1", "both")))
    )
    for key, tensor in both.items():
        torch.testing.assert_close(tensor, first[key] + second[key] - before[key], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("algo", ["ia3", "full"])
def test_names_are_converted_without_the_base(algo: str, tmp_path: Path) -> None:
    path = MAKERS["SDXL file"][0](tmp_path)
    file, _ = file_of(path, "SDXL file", tmp_path / "kind.safetensors", algo)
    for source, to, name in ((file, "comfy", "comfy"), (tmp_path / "comfy.safetensors", "kohya", "back")):
        report = convert(ConvertRequest(file=str(source), to=to, out=str(tmp_path / f"{name}.safetensors")), silent)  # type: ignore[arg-type]
        assert report.loss is None or report.loss.worst == 0
    before, after = load_file(file), load_file(tmp_path / "back.safetensors")
    assert before.keys() == after.keys() and load_file(tmp_path / "comfy.safetensors").keys() != before.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_what_makes_no_sense_is_refused_with_what_can_be_done(tmp_path: Path) -> None:
    path = MAKERS["SD 1.5 file"][0](tmp_path)
    file, _ = file_of(path, "SD 1.5 file", tmp_path / "oft.safetensors", "diag-oft")
    out = tmp_path / "out.safetensors"
    for call in (
        lambda: resized(file, None, out, rank=4),
        lambda: merge(MergeRequest(files=[(str(file), 1.0)], out=str(out)), silent),
    ):
        with refused("lora-kind-not-computable", "OFT") as caught:
            call()
        assert "--base CHECKPOINT" in caught.value.hint and "--into CHECKPOINT" in caught.value.hint
    with refused("lora-kind-not-convertible"):
        convert(ConvertRequest(file=str(file), to="diffusers", out=str(out)), silent)
    other = MAKERS["SDXL file"][0](tmp_path / "xl")
    with refused("lora-for-other-model"):
        resized(file, other, out, rank=4)
    with refused("lora-for-other-model"):
        run([(file, 1.0)], other, out)
    small = tmp_path / "small.safetensors"
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    save_file({f"{name}.oft_blocks": torch.ones(3, 2, 2)}, small, {"ss_base_model_version": "sd_v1"})
    with refused("lora-of-other-size", name):
        run([(small, 1.0)], path, out)
    tucker = {f"{name}.{end}.weight": torch.ones(2, 2) for end in ("a1", "a2", "b1", "b2", "bm")}
    save_file(tucker, small, {"ss_base_model_version": "sd_v1"})
    with refused("lora-kind-not-computable", "bm"):
        run([(small, 1.0)], path, out)
    assert not out.exists()
