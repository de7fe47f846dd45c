"""What the tools write, loaded through diffusers' own loader: the denoiser gives what it gives with the source."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_pipeline import (
    FluxLoraLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.adapters.tools.convert import convert
from engine.adapters.tools.merge import merge
from engine.adapters.tools.requests import ConvertRequest, MergeRequest, ResizeRequest
from engine.adapters.tools.resize import resize
from engine.models.lora_names import ALPHA, DOWN, PARTS, UP
from tests.engine.adapters.tools.conftest import Tensors, silent
from tests.engine.adapters.tools.test_into import MAKERS, components_of, merged_pair

LOADERS: dict[str, Any] = {
    "SD 1.5 folder": StableDiffusionLoraLoaderMixin,
    "SDXL file": StableDiffusionXLLoraLoaderMixin,
    "FLUX file": FluxLoraLoaderMixin,
}


def pipeline(kind: str, parts: dict[str, nn.Module]) -> Any:
    """The part of a pipeline that `load_lora_weights` works on."""
    loader: Any = type("Loader", (LOADERS[kind],), {"hf_device_map": None, "_lora_scale": 1.0})()
    loader.components = parts
    for name, module in parts.items():
        setattr(loader, name, module)
    return loader


@torch.no_grad()
def by_file(kind: str, parts: dict[str, nn.Module], path: Path) -> Tensor:
    """The denoiser's output with the file, loaded from disk as a user does: its metadata count."""
    mine = {name: copy.deepcopy(module) for name, module in parts.items()}
    pipeline(kind, mine).load_lora_weights(str(path.parent), weight_name=path.name)
    return MAKERS[kind][1].denoise(mine)


@torch.no_grad()
def by_kohya(kind: str, parts: dict[str, nn.Module], path: Path) -> Tensor:
    mine = {name: copy.deepcopy(module) for name, module in parts.items()}
    MAKERS[kind][1].load(mine, load_file(path), "default")
    return MAKERS[kind][1].denoise(mine)


def close(first: Tensor, second: Tensor) -> bool:
    return float((first - second).abs().max()) <= 2e-4 * float(second.abs().max())


@pytest.mark.parametrize("kind", LOADERS)
def test_diffusers_loads_the_file_in_its_own_names(kind: str, tmp_path: Path) -> None:
    base, lora, _, _ = merged_pair(kind)
    convert(ConvertRequest(file=str(lora), to="diffusers", out=str(tmp_path / "d.safetensors")), silent)
    parts = components_of(base)
    assert close(by_file(kind, parts, tmp_path / "d.safetensors"), by_kohya(kind, parts, lora))


@pytest.mark.parametrize("kind", ["SD 1.5 folder"])
def test_alphas_that_differ_from_layer_to_layer_are_read_by_diffusers(kind: str, tmp_path: Path) -> None:
    """A dynamic resize gives each layer its rank and alpha. In Kohya's names diffusers takes the most frequent alpha
    for attention, which the report says; in its own names it reads each."""
    base, lora, _, _ = merged_pair(kind)
    small, full = tmp_path / "small.safetensors", tmp_path / "whole.safetensors"
    report = resize(ResizeRequest(file=str(lora), out=str(small), fro=0.8), silent)
    assert len(report.ranks) > 1 and any("diffusers (0.42)" in note for note in report.notes)
    convert(ConvertRequest(file=str(small), to="diffusers", out=str(tmp_path / "d.safetensors")), silent)
    save_file(_with_common_alpha(load_file(small)), full)
    parts = components_of(base)
    assert close(by_file(kind, parts, tmp_path / "d.safetensors"), by_kohya(kind, parts, full))


def _with_common_alpha(tensors: Tensors) -> Tensors:
    """The same change, with rank and alpha 4 everywhere: the factor in up, and zeros."""
    result: Tensors = {}
    for name in {key.partition(".")[0] for key in tensors}:
        down, up, alpha = (tensors[f"{name}.{part}"] for part in PARTS)
        result[f"{name}.{DOWN}"] = torch.zeros(4, *down.shape[1:])
        result[f"{name}.{UP}"] = torch.zeros(len(up), 4, *up.shape[2:])
        result[f"{name}.{DOWN}"][: len(down)] = down
        result[f"{name}.{UP}"][:, : len(down)] = up * alpha / len(down)
        result[f"{name}.{ALPHA}"] = torch.tensor(4.0)
    return result


def test_a_merge_is_the_sum_of_both_in_diffusers(tmp_path: Path) -> None:
    kind = "SD 1.5 folder"
    base, lora, _, _ = merged_pair(kind)
    out = tmp_path / "c.safetensors"
    merge(MergeRequest(files=[(str(lora), 0.3), (str(lora), 0.7)], out=str(out)), silent)
    parts = components_of(base)
    assert close(by_file(kind, parts, out), by_kohya(kind, parts, lora))
