"""Resize: nothing is lost at full rank, the strength stays, and what is lost is what the singular values say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.adapters.inspect import inspect_lora
from engine.adapters.tools.lora_file import read_lora
from engine.adapters.tools.report import ToolReport
from engine.adapters.tools.requests import ResizeRequest
from engine.adapters.tools.resize import resize
from engine.models.header import read_header
from tests.engine.adapters.tools.conftest import FAMILIES, SD15, Tensors, deltas, lora_tensors, silent
from tests.refusals import refused

Saved = Callable[..., Path]
PROJ = "lora_unet_down_blocks_0_attentions_0_proj_in"


def run(path: Path, out: Path, **options: Any) -> ToolReport:
    return resize(ResizeRequest(file=str(path), out=str(out), **options), silent)


@pytest.mark.parametrize("base", FAMILIES)
def test_at_the_full_rank_nothing_is_lost(base: str, saved: Saved, tmp_path: Path) -> None:
    source = saved(lora_tensors(FAMILIES[base]), metadata={"ss_network_dim": "4"})
    report = run(source, tmp_path / "out.safetensors", rank=4)
    before, after = deltas(source), deltas(tmp_path / "out.safetensors")
    assert before.keys() == after.keys()
    for name, change in before.items():
        assert torch.allclose(after[name], change, atol=1e-6 * float(change.norm())), name
    assert report.loss is not None and report.loss.worst < 1e-6 and report.ranks == {"4": len(before)}
    assert inspect_lora(tmp_path / "out.safetensors").problems == []


def test_a_lower_rank_keeps_the_largest_singular_values_and_the_scale(saved: Saved, tmp_path: Path) -> None:
    source = saved(lora_tensors(SD15, rank=8, alpha=4.0))
    report = run(source, tmp_path / "out.safetensors", rank=3)
    out = read_lora(tmp_path / "out.safetensors").layers
    for loss in report.layers:
        change = deltas(source)[loss.name]
        s = torch.linalg.svdvals(change)
        assert loss.lost == pytest.approx(float(s[3:].norm()), rel=1e-4)
        assert loss.norm == pytest.approx(float(s.norm()), rel=1e-5)
        assert loss.kept == pytest.approx(float(s[:3].norm() / s.norm()), rel=1e-4)
        assert out[loss.name].alpha == 1.5 and out[loss.name].rank == 3  # alpha' = k · alpha / rank
    assert report.components.keys() == {"text_encoder", "unet"}


def test_the_dynamic_method_and_its_cap_for_convolutions(saved: Saved, tmp_path: Path) -> None:
    source = saved(lora_tensors(SD15, rank=8), metadata={"ss_training_comment": "mine"})
    report = run(source, tmp_path / "out.safetensors", fro=0.9, rank=6, conv_rank=2)
    ranks = {loss.name: loss.rank for loss in report.layers}
    assert ranks["lora_unet_mid_block_resnets_1_conv2"] == 2
    assert all(loss.kept >= 0.9 for loss in report.layers if loss.rank not in (2, 6))
    metadata = read_header(tmp_path / "out.safetensors").metadata
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "Dynamic"
    assert metadata["ss_training_comment"] == "Dynamic resize with sv_fro: 0.9 from 8; mine"


def test_metadata_of_a_plain_resize(saved: Saved, tmp_path: Path) -> None:
    source = saved(lora_tensors(SD15, rank=8, alpha=8.0), metadata={"ss_seed": "5", "sshs_model_hash": "0"})
    run(source, tmp_path / "out.safetensors", rank=2)
    metadata = read_header(tmp_path / "out.safetensors").metadata
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"], metadata["ss_seed"]) == ("2", "2.0", "5")
    assert metadata["ss_training_comment"] == "dimension is resized from 8 to 2"
    assert len(metadata["sshs_model_hash"]) == 64


LOHA = {"hada_w1_a": (32, 2), "hada_w1_b": (2, 32), "hada_w2_a": (32, 2), "hada_w2_b": (2, 32)}
KINDS: dict[str, tuple[dict[str, tuple[int, ...]], int]] = {
    "LoHa": (LOHA, 4),  # rank r²
    "LoKr": ({"lokr_w1": (4, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 8)}, 8),  # rank(W1) · rank(W2)
    "full difference": ({"diff": (32, 32)}, 32),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_become_loras_with_the_share_that_is_retained(kind: str, saved: Saved, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shapes, full = KINDS[kind]
    tensors: Tensors = {f"{PROJ}.{part}": torch.randn(shape) for part, shape in shapes.items()}
    tensors |= {} if kind == "full difference" else {f"{PROJ}.alpha": torch.tensor(1.0)}
    source = saved(tensors, metadata={"ss_base_model_version": "sd_v1"})
    lossless = run(source, tmp_path / "whole.safetensors", rank=full)
    assert lossless.loss is not None and lossless.loss.total < 1e-5
    assert torch.allclose(deltas(tmp_path / "whole.safetensors")[PROJ], deltas(source)[PROJ], atol=1e-4)
    half = run(source, tmp_path / "half.safetensors", rank=full // 2)
    s = torch.linalg.svdvals(deltas(source)[PROJ])
    assert half.loss is not None
    assert half.loss.total == pytest.approx(float(s[full // 2 :].norm() / s.norm()), rel=1e-3)
    assert any(kind in note for note in half.notes)


def test_the_number_format_stays_or_is_chosen_and_its_rounding_counts(saved: Saved, tmp_path: Path) -> None:
    source = saved(lora_tensors(SD15, dtype=torch.bfloat16))
    kept = run(source, tmp_path / "kept.safetensors", rank=4)
    chosen = run(source, tmp_path / "chosen.safetensors", rank=4, precision="float")
    assert load_file(tmp_path / "kept.safetensors")[f"{PROJ}.lora_up.weight"].dtype == torch.bfloat16
    assert load_file(tmp_path / "chosen.safetensors")[f"{PROJ}.lora_up.weight"].dtype == torch.float32
    assert kept.loss is not None and chosen.loss is not None
    assert 1e-3 < kept.loss.total < 1e-2 and chosen.loss.total < 1e-6


def test_beyond_fp16_the_file_is_written_in_fp32_with_a_note(saved: Saved, tmp_path: Path) -> None:
    tensors = {key: tensor * 3000 for key, tensor in lora_tensors(SD15).items()}
    tensors |= {key: torch.tensor(1.0) for key in tensors if key.endswith("alpha")}
    report = run(saved(tensors), tmp_path / "out.safetensors", rank=4, precision="fp16")
    assert any("fp32" in note for note in report.notes)
    assert load_file(tmp_path / "out.safetensors")[f"{PROJ}.lora_up.weight"].dtype == torch.float32


def test_names_of_diffusers_become_kohya_s(saved: Saved, tmp_path: Path) -> None:
    front = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    source = saved({f"{front}.lora_A.weight": torch.ones(2, 768), f"{front}.lora_B.weight": torch.ones(32, 2)})
    run(source, tmp_path / "out.safetensors", rank=1)
    expected = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
    assert expected in load_file(tmp_path / "out.safetensors")


def test_a_model_without_a_table_keeps_its_names(saved: Saved, tmp_path: Path) -> None:
    front = "diffusion_model.blocks.0.self_attn.q"
    source = saved({f"{front}.lora_A.weight": torch.randn(4, 16), f"{front}.lora_B.weight": torch.randn(16, 4)})
    report = run(source, tmp_path / "out.safetensors", rank=2)
    assert report.base == "Wan"
    names = {f"{front}.{end}" for end in ("lora_A.weight", "lora_B.weight", "alpha")}
    assert load_file(tmp_path / "out.safetensors").keys() == names


def test_embeddings_in_the_file_stay(saved: Saved, tmp_path: Path) -> None:
    embedding = {"bundle_emb.word.string_to_param.*": torch.ones(1, 768)}
    run(saved({**lora_tensors(SD15), **embedding}), tmp_path / "out.safetensors", rank=2)
    assert embedding.keys() <= load_file(tmp_path / "out.safetensors").keys()


def test_a_dry_run_reports_the_same_and_writes_nothing(saved: Saved, tmp_path: Path) -> None:
    source = saved(lora_tensors(SD15, rank=8))
    dry = run(source, tmp_path / "out.safetensors", rank=2, dry_run=True)
    assert dry.output is None and list(tmp_path.iterdir()) == [source]
    assert dry.layers == run(source, tmp_path / "out.safetensors", rank=2).layers


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        ({}, "no-rank", "--rank"),
        ({"fro": 0.9, "ratio": 2.0}, "rank-rules-together", "--ratio, --fro"),
        ({"rank": 0}, "rank-too-small", "--rank 0"),
        ({"rank": 2, "conv_rank": -1}, "rank-too-small", "--conv-rank -1"),
        ({"ratio": 0.5}, "ratio-too-small", "--ratio 0.5"),
        ({"fro": 1.5}, "share-out-of-range", "--fro 1.5"),
        ({"cumulative": 0.0}, "share-out-of-range", "--cumulative 0"),
        ({"ratio": float("nan")}, "ratio-too-small", "--ratio nan"),
    ],
)
def test_rules_that_cannot_be(options: dict[str, Any], code: str, part: str, saved: Saved, tmp_path: Path) -> None:
    with refused(code, part):
        run(saved(lora_tensors(SD15)), tmp_path / "out.safetensors", **options)
