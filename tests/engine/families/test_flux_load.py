"""FLUX.1: every layout holds the same model, fp8 with and without scales, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.config import RunConfig
from engine.families.flux.model import FluxModel
from engine.families.flux.names import bfl_place
from engine.families.flux.parts import CONFIGURATIONS, build_transformer
from engine.families.registry import family_named, recognise
from engine.models.loading import meta_module
from engine.types import Recognition
from tests.refusals import refused
from tests.tiny_flux import FluxFiles, tiny_files, tiny_folder, tiny_parts, tiny_t5_tokenizer
from tests.tiny_models import tiny_sd15

COMFY = "model.diffusion_model."
PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2")


def load(settings: dict[str, Any], messages: list[str] | None = None, dtype: str = "fp32") -> FluxModel:
    config = RunConfig().changed(model=settings)
    recognition = recognise(config.model.pretrained_model_name_or_path)
    log = ([] if messages is None else messages).append
    model = family_named(recognition.family).load(config, recognition, "cpu", dtype, log)
    assert isinstance(model, FluxModel)
    return model


def part_of(model: FluxModel, part: str) -> Any:
    return model.text_encoders.get(part) or getattr(model, part)


def t5_of(model: FluxModel) -> Any:
    return model.text_encoders["text_encoder_2"]


def same(model: FluxModel, expected: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    for part in PARTS:
        state = expected[part].state_dict()
        loaded = part_of(model, part).state_dict()
        assert loaded.keys() == state.keys()
        for key, tensor in loaded.items():
            assert torch.equal(tensor.float(), state[key].to(dtype).float()), (part, key)
    assert t5_of(model).encoder.embed_tokens.weight is t5_of(model).shared.weight


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FluxFiles:
    return tiny_files(tmp_path_factory.mktemp("files"))


def copied(files: FluxFiles, tmp_path: Path, **parts: dict[str, Tensor]) -> dict[str, str]:
    """Settings in which some of the files hold other tensors."""
    settings = files.settings
    for key, tensors in parts.items():
        place = tmp_path / f"{key}.safetensors"
        save_file(tensors, place)
        settings["pretrained_model_name_or_path" if key == "transformer" else key] = str(place)
    return settings


def test_the_diffusers_folder_is_what_diffusers_loads(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    model = load({"pretrained_model_name_or_path": str(folder)})
    pipeline_class: Any = FluxPipeline
    pipeline = pipeline_class.from_pretrained(folder, local_files_only=True)
    same(model, {part: getattr(pipeline, part) for part in PARTS})
    assert list(model.trainable) == ["text_encoder", "transformer"]
    assert not any(p.requires_grad for part in PARTS for p in part_of(model, part).parameters())
    assert model.recognition.reasons[0].startswith("FLUX.1 dev: it has a guidance embedding")


@pytest.mark.parametrize(
    ("prefix", "naming", "whole"),
    [("", "bfl", False), (COMFY, "bfl", False), ("", "diffusers", False), (COMFY, "bfl", True)],
)
def test_separate_files_hold_the_same_model(tmp_path: Path, prefix: str, naming: str, whole: bool) -> None:
    files = tiny_files(tmp_path, prefix=prefix, naming=naming, single_file=whole, blocks=(2, 3))
    settings = files.settings
    if whole:
        settings = {key: settings[key] for key in ("pretrained_model_name_or_path", "t5_tokenizer")}
    messages: list[str] = []
    model = load(settings, messages)
    same(model, tiny_parts(blocks=(2, 3)))
    assert messages == []


def test_half_precision_and_schnell(tmp_path: Path) -> None:
    files = tiny_files(tmp_path, dtype="bf16", dev=False)
    model = load(files.settings, dtype="bf16")
    same(model, tiny_parts(dev=False), torch.bfloat16)
    assert model.recognition.details["variant"] == "schnell"
    assert "no guidance embedding" in model.recognition.reasons[0]
    assert model.max_length == 256
    assert (model.recognition.dtype, model.guided) == ("bf16", False)


def test_t5_is_never_computed_in_fp16(files: FluxFiles) -> None:
    messages: list[str] = []
    model = load(files.settings, messages, dtype="fp16")
    assert next(t5_of(model).parameters()).dtype == torch.bfloat16
    assert next(model.transformer.parameters()).dtype == torch.float16
    assert messages == ["T5 is computed in bf16: it overflows in fp16."]


def test_diffusers_own_converter_agrees() -> None:
    """Its converter was written by others from the same architecture. It works on the real width only: here every
    tensor has its real rows, each of one number."""
    config = json.loads((CONFIGURATIONS / "transformer" / "config.json").read_text())
    state = meta_module(build_transformer, config | {"num_layers": 1, "num_single_layers": 1}).state_dict()
    places = {key: bfl_place(key, 3072) for key in state}
    rows: dict[str, int] = {}
    for key, (name, _, _) in places.items():
        rows[name] = rows.get(name, 0) + len(state[key])
    file = {name: torch.arange(count, dtype=torch.float64) + 1e6 * n for n, (name, count) in enumerate(rows.items())}
    theirs = convert_flux_transformer_checkpoint_to_diffusers(dict(file))
    assert theirs.keys() == places.keys()
    for key, (name, part, swapped) in places.items():
        mine = file[name] if part is None else file[name][part]
        mine = torch.cat(mine.chunk(2)[::-1]) if swapped else mine
        assert torch.equal(theirs[key], mine), key


def quantised(tensors: dict[str, Tensor], *, scaled: bool) -> dict[str, Tensor]:
    """As ComfyUI writes fp8: matrices of the blocks in e4m3fn; scaled, each with its scale, and the marker."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or "block" not in name or "relative_attention_bias" in name:
            result[name] = tensor
            continue
        scale = tensor.abs().max() / 448 if scaled else torch.tensor(1.0)
        result[name] = (tensor / scale).to(torch.float8_e4m3fn)
        if scaled:
            result[name.removesuffix("weight") + "scale_weight"] = scale
    return result | ({"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)} if scaled else {})


@pytest.mark.parametrize("scaled", [False, True])
def test_fp8_files(files: FluxFiles, tmp_path: Path, scaled: bool) -> None:
    changed = {key: quantised(load_file(getattr(files, key)), scaled=scaled) for key in ("transformer", "t5xxl")}
    messages: list[str] = []
    model = load(copied(files, tmp_path, **changed), messages)
    exact = load(files.settings)
    assert messages == []
    for part in ("transformer", "text_encoder_2"):
        for key, tensor in part_of(model, part).state_dict().items():
            wanted = part_of(exact, part).state_dict()[key]
            error = (tensor - wanted).abs().max() / wanted.abs().max()
            assert error <= 2**-4, key  # three bits behind the point
            assert torch.equal(tensor, wanted) == (wanted.ndim != 2 or "block" not in key or "bias" in key)
    query = model.transformer.transformer_blocks[0].attn.to_k.weight  # rows of a scaled matrix
    stored = changed["transformer"]["double_blocks.0.img_attn.qkv.weight"][64:128].float()
    assert torch.equal(query, stored * changed["transformer"].get("double_blocks.0.img_attn.qkv.scale_weight", 1.0))


def without(tensors: dict[str, Tensor], ending: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(ending)}


def test_fp8_without_its_scales_is_refused(files: FluxFiles, tmp_path: Path) -> None:
    broken = without(quantised(load_file(files.t5xxl), scaled=True), "0.SelfAttention.q.scale_weight")
    with refused("fp8-without-scale", "2 of them"):
        load(copied(files, tmp_path, t5xxl=broken))
    broken = without(quantised(load_file(files.transformer), scaled=True), ".scale_weight")
    with refused("fp8-without-scale", "(double_blocks"):
        load(copied(files, tmp_path, transformer=broken))


def changed_transformer(files: FluxFiles, change: Callable[[dict[str, Tensor]], None]) -> dict[str, Tensor]:
    tensors = load_file(files.transformer)
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        (lambda t: t.update({"distilled_guidance_layer.in_proj.weight": torch.zeros(1)}), "model-is-chroma", ""),
        (lambda t: t.update({"double_stream_modulation_img.lin.weight": torch.zeros(1)}), "model-is-flux2", ""),
        (lambda t: t.update({"img_in.weight": torch.zeros(64, 384)}), "not-text-to-image", "FLUX Fill"),
        (lambda t: t.update({"img_in.weight": torch.zeros(64, 128)}), "not-text-to-image", "FLUX Depth, Canny"),
        (lambda t: t.update({"img_in.weight": torch.zeros(64, 96)}), "not-text-to-image", "96 channels"),
        (lambda t: t.pop("vector_in.in_layer.weight"), "checkpoint-without-parts", "vector_in"),
        (
            lambda t: t.update({"double_blocks.0.img_mlp.0.weight": torch.zeros(9, 1, dtype=torch.uint8)}),
            "weights-packed",
            "double_blocks.0.img_mlp.0.weight",
        ),
        (lambda t: t.pop("final_layer.linear.bias"), "checkpoint-incomplete", "1 of the"),
        (lambda t: t.pop("single_blocks.0.linear1.weight"), "checkpoint-incomplete", "single_blocks.0.linear1.weight"),
        (lambda t: t.update({"final_layer.linear.bias": torch.zeros(3)}), "tensor-wrong-shape", "[3]"),
    ],
)
def test_other_transformers_are_refused(files: FluxFiles, tmp_path: Path, change: Any, code: str, part: str) -> None:
    settings = copied(files, tmp_path, transformer=changed_transformer(files, change))
    with refused(code, part) as caught:
        load(settings)
    assert caught.value.message.count(". ") == 0


@pytest.mark.parametrize(
    ("pipeline", "code"),
    [
        ("FluxKontextPipeline", "not-text-to-image"),
        ("FluxFillPipeline", "not-text-to-image"),
        ("FluxControlPipeline", "not-text-to-image"),
        ("Flux2Pipeline", "model-is-flux2"),
        ("ChromaPipeline", "model-is-chroma"),
    ],
)
def test_folders_of_relatives_are_refused(tmp_path: Path, pipeline: str, code: str) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    with refused(code, tmp_path):
        recognise(tmp_path)


def test_a_transformer_alone_names_what_it_lacks(files: FluxFiles) -> None:
    with refused("flux-parts-not-set", files.transformer, "(flux.clip_l)", "(flux.t5xxl)", "(flux.ae)"):
        load({"pretrained_model_name_or_path": str(files.transformer)})
    with refused("flux-parts-not-set", files.transformer, "(flux.t5xxl)") as caught:
        load({key: value for key, value in files.settings.items() if key != "t5xxl"})
    assert "(flux.clip_l)" not in caught.value.message and "(flux.ae)" not in caught.value.message


def test_wrong_files_are_reported(files: FluxFiles, tmp_path: Path) -> None:
    with refused("wrong-model-part", "flux.clip_l: ", files.ae):
        load(files.settings | {"clip_l": str(files.ae)})
    with refused("model-file-missing", "flux.ae: ", tmp_path / "nothing.safetensors"):
        load(files.settings | {"ae": str(tmp_path / "nothing.safetensors")})
    other = tiny_sd15(tmp_path / "sd", ldm=True)
    vae = {name.removeprefix("first_stage_model."): t for name, t in load_file(other).items() if "first_stage" in name}
    with refused("model-parts-do-not-fit", "16 values", "takes 64"):
        load(copied(files, tmp_path, ae=vae))


def test_where_the_t5_tokenizer_is_looked_for(
    files: FluxFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    settings = {key: value for key, value in files.settings.items() if key != "t5_tokenizer"}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with refused("t5-tokenizer-missing", "lorasmith fetch t5-tokenizer"):
        load(settings)
    with refused("tokenizer-incomplete"):
        load(settings | {"t5_tokenizer": str(tmp_path)})
    repository = tmp_path / "hub" / "models--google--t5-v1_1-xxl"
    tiny_t5_tokenizer(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert len(load(settings).tokenizer_2) == len(load(files.settings).tokenizer_2)


def test_empty_weights_for_plans(files: FluxFiles) -> None:
    config = RunConfig().changed(model=files.settings)
    recognition = recognise(files.transformer)
    model = family_named("flux").load(config, recognition, "cpu", "bf16", lambda _: None, empty=True)
    assert isinstance(model, FluxModel)
    assert {key: t.shape for key, t in model.transformer.state_dict().items()} == {
        key: t.shape for key, t in tiny_parts()["transformer"].state_dict().items()
    }


def test_recognition(files: FluxFiles) -> None:
    model: Recognition = recognise(files.transformer)
    assert (model.family, model.prediction_type, model.multiple, model.downscale) == ("flux", "flow", 16, 16)
    assert model.details["variant"] == "dev"
