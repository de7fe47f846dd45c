"""Extract: what was merged into a checkpoint comes out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.adapters.inspect import inspect_lora
from engine.adapters.tools.extract import extract, quantile
from engine.adapters.tools.report import ToolReport
from engine.adapters.tools.requests import ExtractRequest
from engine.models.header import read_header
from tests.engine.adapters.tools.conftest import deltas, silent
from tests.engine.adapters.tools.test_into import merged_pair
from tests.refusals import refused
from tests.tiny_models import tiny_sd15
from tests.tiny_sdxl import tiny_sdxl


def run(tuned: Path, base: Path, out: Path, **options: Any) -> ToolReport:
    values = {"rank": 4, "precision": "float", **options}
    return extract(ExtractRequest(tuned=str(tuned), base=str(base), out=str(out), **values), silent)


@pytest.mark.parametrize("kind", ["SD 1.5 file", "SDXL file", "FLUX file", "FLUX folder"])
def test_what_was_merged_comes_out_again(kind: str, tmp_path: Path) -> None:
    base, lora, tuned, _ = merged_pair(kind)
    report = run(tuned, base, tmp_path / "out.safetensors", conv_rank=4)
    expected, result = deltas(lora), deltas(tmp_path / "out.safetensors")
    assert result.keys() == expected.keys()
    for name, change in expected.items():
        assert float((result[name] - change).norm()) <= 1e-4 * float(change.norm()), name
    assert report.loss is not None and report.loss.worst < 1e-4 and not report.left_out
    assert inspect_lora(tmp_path / "out.safetensors").problems == []
    assert read_header(tmp_path / "out.safetensors").metadata["ss_network_dim"] == "4"


@pytest.fixture
def pair() -> tuple[Path, Path, Path]:
    """(trained, base, the LoRA that was merged)."""
    base, lora, tuned, _ = merged_pair("SD 1.5 file")
    return tuned, base, lora


def test_a_lower_rank_reports_what_is_lost(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    tuned, base, lora = pair
    report = run(tuned, base, tmp_path / "out.safetensors", rank=2)
    changes = deltas(lora)
    for loss in report.layers:
        s = torch.linalg.svdvals(changes[loss.name])
        assert loss.share == pytest.approx(float(s[2:].norm() / s.norm()), rel=1e-2)
    assert {name.rpartition("_")[2] for name in report.left_out} >= {"conv1", "conv2"}  # 3×3, without --conv-rank
    assert any("does not cover" in note for note in report.notes)


def test_the_clamp_cuts_the_factors_at_the_quantile(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    tuned, base, _ = pair
    free = run(tuned, base, tmp_path / "free.safetensors")
    cut = run(tuned, base, tmp_path / "cut.safetensors", clamp=0.9)
    assert free.loss is not None and cut.loss is not None and cut.loss.total > 100 * free.loss.total
    tensors = load_file(tmp_path / "cut.safetensors")
    name = next(iter(cut.layers)).name
    down, up = (tensors[f"{name}.{end}.weight"] for end in ("lora_down", "lora_up"))
    both = torch.cat([down.flatten(), up.flatten()]).abs()
    share = float((both == both.max()).float().mean())
    assert share == pytest.approx(0.1, abs=0.02)


def test_a_text_encoder_that_hardly_differs_is_left_out(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    tuned, base, _ = pair
    tensors, original = load_file(tuned), load_file(base)
    for key in tensors:
        if key.startswith("cond_stage_model."):
            tensors[key] = original[key] + 1e-3 * torch.randn(original[key].shape).sign()
    save_file(tensors, tmp_path / "near.safetensors")
    near = run(tmp_path / "near.safetensors", base, tmp_path / "a.safetensors", min_diff=0.01)
    every = run(tmp_path / "near.safetensors", base, tmp_path / "b.safetensors")
    assert near.components.keys() == {"unet"} and every.components.keys() == {"text_encoder", "unet"}
    assert any("text_encoder" in note for note in near.notes)


def test_half_precision_is_the_default(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    run(pair[0], pair[1], tmp_path / "out.safetensors", precision=None)
    kinds = {kind for kind, _ in read_header(tmp_path / "out.safetensors").tensors.values()}
    assert kinds == {"F16"}


def test_checkpoints_that_cannot_be_compared(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    tuned, base, _ = pair
    out = tmp_path / "out.safetensors"
    with refused("checkpoints-do-not-differ"):
        run(base, base, out)
    with refused("checkpoints-of-different-kinds"):
        run(tiny_sdxl(tmp_path), base, out)
    wide = tiny_sd15(tmp_path / "wide", ldm=True, channels=(64, 64, 64, 64))
    with refused("checkpoints-of-different-sizes"):
        run(wide, base, out)
    tensors = load_file(tuned)
    tensors["model.diffusion_model.input_blocks.1.1.proj_in.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    with refused("weights-not-finite"):
        run(tmp_path / "nan.safetensors", base, out)
    for options, code, part in (
        ({"rank": 0}, "rank-too-small", "--rank 0"),
        ({"clamp": 1.5}, "clamp-out-of-range", "--clamp 1.5"),
        ({"min_diff": -1.0}, "min-diff-negative", "--min-diff -1"),
    ):
        with refused(code, part):
            run(tuned, base, out, **options)
    assert not out.exists()


def test_the_quantile_of_many_numbers() -> None:
    values = torch.arange(2**24 + 2).float()
    assert quantile(values, 0.5) == pytest.approx(2**23, abs=2)
    assert quantile(torch.arange(101.0), 0.99) == pytest.approx(99.0)
