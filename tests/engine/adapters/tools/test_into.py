"""Merge into a checkpoint: the denoiser gives what the base with the LoRA gives, loaded by diffusers' own loader."""

from __future__ import annotations

import atexit
import copy
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.adapters.tools.checkpoint import read_checkpoint
from engine.adapters.tools.merge import merge
from engine.adapters.tools.report import ToolReport
from engine.adapters.tools.requests import MergeRequest
from engine.families.base import LoraReader
from engine.families.flux.reader import FluxReader
from engine.families.registry import family_named, recognise
from engine.families.unet.reader import SD15Reader, SDXLReader
from engine.models.header import read_header
from engine.models.loading import load_part
from tests import tiny_flux
from tests.engine.adapters.tools.conftest import SDXL, Tensors, lora_tensors, silent
from tests.refusals import refused
from tests.tiny_models import tiny_sd15
from tests.tiny_sdxl import tiny_sdxl

VERSIONS = {"SD 1.5": "sd_v1", "SDXL": "sdxl_base_v1-0", "FLUX": "flux1"}


def flux_file(directory: Path, **_: Any) -> Path:
    """The transformer in BFL's names, CLIP beside it in the same file as ComfyUI has it."""
    parts = tiny_flux.tiny_parts()
    tensors = {
        f"model.diffusion_model.{name}": tensor
        for name, tensor in tiny_flux.file_tensors("transformer", parts["transformer"]).items()
    }
    clip = tiny_flux.file_tensors("text_encoder", parts["text_encoder"])
    tensors |= {f"text_encoders.clip_l.transformer.{name}": tensor for name, tensor in clip.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "flux.safetensors")
    return directory / "flux.safetensors"


MAKERS: dict[str, tuple[Callable[[Path], Path], LoraReader]] = {
    "SD 1.5 file": (lambda folder: tiny_sd15(folder, ldm=True, metadata={"modelspec.title": "old"}), SD15Reader()),
    "SD 1.5 folder": (tiny_sd15, SD15Reader()),
    "SDXL file": (lambda folder: tiny_sdxl(folder, file=True), SDXLReader()),
    "FLUX file": (flux_file, FluxReader()),
    "FLUX folder": (tiny_flux.tiny_folder, FluxReader()),
}


def lora_for(path: Path, directory: Path, *, name: str = "lora", seed: int = 0, scale: float = 1.0) -> Path:
    """A LoRA on every layer that Kohya trains, convolutions included."""
    checkpoint = read_checkpoint(str(path))
    layers = {
        layer.name: (layer.shape[1], layer.shape[0], *layer.shape[2:])
        for layer in checkpoint.layers.values()
        if (layer.usual or layer.convolutional) and not layer.name.startswith("lora_te3_")
    }
    tensors = {
        key: tensor * (scale if key.endswith("lora_up.weight") else 1)
        for key, tensor in lora_tensors(layers, seed=seed).items()
    }
    out = directory / f"{name}.safetensors"
    save_file(tensors, out, {"ss_base_model_version": VERSIONS[checkpoint.base]})
    return out


def components_of(path: Path) -> dict[str, nn.Module]:
    recognition = recognise(path)
    sources = family_named(recognition.family).sources(recognition)
    parts = {part: load_part(part, source, torch.float32, lambda _: None) for part, source in sources.items()}
    return {part: module for part, module in parts.items() if not (part == "text_encoder_2" and "transformer" in parts)}


def run(lora: list[tuple[Path, float]], into: Path, out: Path | None, **options: Any) -> ToolReport:
    files = [(str(path), weight) for path, weight in lora]
    place = None if out is None else str(out)
    return merge(MergeRequest(files=files, into=str(into), out=place, **options), silent)


@functools.cache
def merged_pair(kind: str) -> tuple[Path, Path, Path, ToolReport]:
    """(base, LoRA, merged checkpoint, report) of a kind; made once a process, for the tests of extract too."""
    folder = Path(tempfile.mkdtemp(prefix="merged-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    base = MAKERS[kind][0](folder)
    lora = lora_for(base, folder, scale=0.3)
    out = folder / ("merged" if base.is_dir() else "merged.safetensors")
    return base, lora, out, run([(lora, 1.0)], base, out)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_denoiser_gives_what_base_and_lora_give(kind: str) -> None:
    reader = MAKERS[kind][1]
    base, lora, out, report = merged_pair(kind)
    assert report.loss is not None and report.loss.worst < 1e-4 and not report.left_out
    plain, merged = components_of(base), components_of(out)
    with torch.no_grad():
        untouched = reader.denoise(plain)
        with_lora = {name: copy.deepcopy(module) for name, module in plain.items()}
        reader.load(with_lora, load_file(lora), "default")
        expected, actual = reader.denoise(with_lora), _through_texts(reader, merged, with_lora)
    size = float(expected.abs().max())
    assert float((actual - expected).abs().max()) <= 2e-4 * size
    assert float((untouched - expected).abs().max()) > 1e-2 * size


def _through_texts(reader: LoraReader, merged: dict[str, nn.Module], loaded: dict[str, nn.Module]) -> Tensor:
    """`denoise` asks the text encoders only where they have a LoRA: one of zeros lets it ask the merged ones."""
    for name, module in merged.items():
        if name.startswith("text_encoder"):
            adapted = {path: layer for path, layer in loaded[name].named_modules() if hasattr(layer, "lora_A")}
            twin = copy.deepcopy(loaded[name])
            for path in adapted:
                layer: Any = twin.get_submodule(path)
                layer.base_layer.weight.data = module.get_submodule(path).weight.data
                layer.lora_B["default"].weight.data.zero_()
            merged[name] = twin
    return reader.denoise(merged)


def test_everything_else_in_the_file_is_the_same_to_the_byte_and_it_is_described(tmp_path: Path) -> None:
    base = tiny_sd15(tmp_path / "base", ldm=True, dtype="fp16", ema=True, position_ids=True, metadata={"a": "b"})
    lora = lora_for(base, tmp_path)
    report = run([(lora, 0.5)], base, tmp_path / "out.safetensors")
    before, after = load_file(base), load_file(tmp_path / "out.safetensors")
    assert list(read_header(base).tensors) == list(read_header(tmp_path / "out.safetensors").tensors)
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert all(after[name].dtype == tensor.dtype for name, tensor in before.items())
    assert changed and not any(name.startswith(("first_stage_model.", "model_ema.")) for name in changed)
    assert not any(name.endswith((".bias", "norm.weight")) for name in changed)
    header = read_header(tmp_path / "out.safetensors")
    payload = (tmp_path / "out.safetensors").read_bytes()[min(first for first, _ in header.places.values()) :]
    assert header.metadata["modelspec.hash_sha256"] == f"0x{hashlib.sha256(payload).hexdigest()}"
    assert header.metadata["modelspec.merged_from"] == "tiny.safetensors, lora.safetensors=0.5"
    assert header.metadata["a"] == "b" and header.metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert any("EMA" in note for note in report.notes)
    assert report.loss is not None and 1e-5 < report.loss.total < 0.1  # fp16 rounds what is added


def test_two_files_with_weights_are_their_sum(tmp_path: Path) -> None:
    base = tiny_sd15(tmp_path / "base", ldm=True)
    first, second = lora_for(base, tmp_path, name="a", seed=1), lora_for(base, tmp_path, name="b", seed=2)
    run([(first, 1.0)], base, tmp_path / "1.safetensors")
    run([(second, -0.5)], tmp_path / "1.safetensors", tmp_path / "12.safetensors")
    run([(first, 1.0), (second, -0.5)], base, tmp_path / "both.safetensors")
    single, both = load_file(tmp_path / "12.safetensors"), load_file(tmp_path / "both.safetensors")
    assert all(torch.allclose(tensor, both[name], atol=1e-5) for name, tensor in single.items())


def test_scaled_fp8_weights_keep_their_scale(tmp_path: Path) -> None:
    base = flux_file(tmp_path)
    tensors: Tensors = {}
    for name, tensor in load_file(base).items():
        if name.endswith(".weight") and tensor.ndim == 2 and "blocks" in name:
            scale = tensor.abs().max() / 448
            tensors[name] = (tensor / scale).to(torch.float8_e4m3fn)
            tensors[name.replace("weight", "scale_weight")] = scale[None]
        else:
            tensors[name] = tensor
    tensors["model.diffusion_model.scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "fp8.safetensors")
    lora = lora_for(tmp_path / "fp8.safetensors", tmp_path, scale=0.1)
    report = run([(lora, 1.0)], tmp_path / "fp8.safetensors", tmp_path / "out.safetensors")
    after = load_file(tmp_path / "out.safetensors")
    key = "model.diffusion_model.double_blocks.0.img_attn.qkv"
    assert after[f"{key}.weight"].dtype == torch.float8_e4m3fn
    assert torch.equal(after[f"{key}.scale_weight"], tensors[f"{key}.scale_weight"])
    change = after[f"{key}.weight"].float() - tensors[f"{key}.weight"].float()
    expected = load_file(lora)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    delta = expected[f"{name}.lora_up.weight"] @ expected[f"{name}.lora_down.weight"] / 2
    got = change * tensors[f"{key}.scale_weight"]
    assert float((got - delta).norm() / delta.norm()) < 0.6 and report.loss is not None and report.loss.total > 1e-3


def test_one_component_of_a_folder(tmp_path: Path) -> None:
    base = tiny_sd15(tmp_path / "base")
    lora = lora_for(base, tmp_path)
    report = run([(lora, 1.0)], base / "unet", tmp_path / "unet2")
    assert {path.name for path in (tmp_path / "unet2").iterdir()} == {path.name for path in (base / "unet").iterdir()}
    assert all(name.startswith("lora_te_") for name in report.left_out) and len(report.left_out) == 12
    run([(lora, 1.0)], base, tmp_path / "whole")
    single = load_file(tmp_path / "unet2" / "diffusion_pytorch_model.safetensors")
    full = load_file(tmp_path / "whole" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, full[name]) for name, tensor in single.items())
    assert (tmp_path / "whole" / "vae" / "config.json").read_bytes() == (base / "vae" / "config.json").read_bytes()


def test_ties_acts_on_the_full_change(tmp_path: Path) -> None:
    base = tiny_sd15(tmp_path / "base", ldm=True)
    files = [(lora_for(base, tmp_path, name=str(seed), seed=seed), 1.0) for seed in (1, 2)]
    ties = run(files, base, tmp_path / "t.safetensors", method="ties", density=0.3)
    assert ties.loss is not None and ties.loss.worst < 1e-4
    assert not torch.equal(*(_first(tmp_path / name) for name in ("t.safetensors", "base/tiny.safetensors")))


def _first(path: Path) -> Tensor:
    return load_file(path)["model.diffusion_model.input_blocks.1.1.proj_in.weight"]


def test_what_does_not_fit(tmp_path: Path) -> None:
    base = tiny_sd15(tmp_path / "base", ldm=True)
    other = tmp_path / "xl.safetensors"
    save_file(lora_tensors(SDXL), other)
    with refused("lora-for-other-model"):
        run([(other, 1.0)], base, tmp_path / "out.safetensors")
    wide = tmp_path / "wide.safetensors"
    save_file(lora_tensors({"lora_unet_down_blocks_0_attentions_0_proj_in": (64, 64)}), wide)
    with refused("lora-of-other-size"):
        run([(wide, 1.0)], base, tmp_path / "out.safetensors")
    half = tiny_sd15(tmp_path / "half", ldm=True, dtype="fp16")
    with refused("result-out-of-range"):
        run([(lora_for(half, tmp_path, scale=1e6), 1.0)], half, tmp_path / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "base", "half", "lora.safetensors", "wide.safetensors", "xl.safetensors",
    ]  # fmt: skip
    with refused("output-is-input"):
        run([(lora_for(base, tmp_path), 1.0)], base, base, overwrite=True)


def test_a_dry_run_into_a_checkpoint_reports_the_same(tmp_path: Path) -> None:
    base = tiny_sd15(tmp_path / "base", ldm=True, dtype="bf16")
    lora = lora_for(base, tmp_path)
    dry = run([(lora, 1.0)], base, None, dry_run=True)
    assert dry.layers == run([(lora, 1.0)], base, tmp_path / "out.safetensors").layers
