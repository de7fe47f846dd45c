"""Merge: the concatenation is the weighted sum, SVD its best approximation, TIES and DARE by their definitions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from engine.adapters.inspect import inspect_lora
from engine.adapters.tools.combine import concatenate, dare, ties
from engine.adapters.tools.layers import FULL, LORA, Layer
from engine.adapters.tools.merge import merge
from engine.adapters.tools.report import ToolReport
from engine.adapters.tools.requests import MergeRequest
from engine.models.header import read_header
from tests.engine.adapters.tools.conftest import FAMILIES, FLUX, SD15, SDXL, deltas, lora_tensors, silent
from tests.refusals import refused

Saved = Callable[..., Path]
PROJ = "lora_unet_down_blocks_0_attentions_0_proj_in"


def run(files: list[tuple[Path, float]], out: Path | None, **options: Any) -> ToolReport:
    named = [(str(path), weight) for path, weight in files]
    return merge(MergeRequest(files=named, out=None if out is None else str(out), **options), silent)


@pytest.mark.parametrize("base", FAMILIES)
def test_concatenation_is_the_weighted_sum(base: str, saved: Saved, tmp_path: Path) -> None:
    """Different ranks, alphas, weights and layers."""
    layers = FAMILIES[base]
    first = saved(lora_tensors(layers, rank=4, alpha=2.0, seed=1), "a", {"modelspec.trigger_phrase": "ohwx"})
    second = saved(lora_tensors(dict(list(layers.items())[1:]), rank=3, alpha=5.0, seed=2), "b")
    report = run([(first, 0.5), (second, -1.25)], tmp_path / "c.safetensors")
    first_deltas, second_deltas, result = deltas(first), deltas(second), deltas(tmp_path / "c.safetensors")
    assert result.keys() == first_deltas.keys()
    for name, change in result.items():
        expected = 0.5 * first_deltas[name] + (-1.25 * second_deltas[name] if name in second_deltas else 0)
        assert torch.allclose(change, expected, atol=1e-6 * float(expected.norm())), name
    assert report.loss is not None and report.loss.worst < 1e-6 and report.ranks == {"4": 1, "7": len(layers) - 1}
    alphas = {float(t) for key, t in load_file(tmp_path / "c.safetensors").items() if key.endswith("alpha")}
    assert alphas == {4.0, 7.0}  # the sum of the ranks
    assert inspect_lora(tmp_path / "c.safetensors").problems == []
    metadata = read_header(tmp_path / "c.safetensors").metadata
    assert metadata["modelspec.merged_from"] == "a.safetensors, b.safetensors"
    assert metadata["modelspec.trigger_phrase"] == "ohwx"
    assert metadata["ss_training_comment"] == "merged with concat: a.safetensors=0.5, b.safetensors=-1.25"


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.floats(0.1, 8), st.floats(-2, 2), st.integers(0, 999)), min_size=1, max_size=4
    )
)
def test_any_number_of_parts(parts: list[tuple[int, float, float, int]]) -> None:
    weighted, expected = [], torch.zeros(7, 9)
    for rank, alpha, weight, seed in parts:
        generator = torch.Generator().manual_seed(seed)
        factors = {"down": torch.randn(rank, 9, generator=generator), "up": torch.randn(7, rank, generator=generator)}
        layer = Layer("x", LORA, factors, alpha)
        weighted.append((layer, weight))
        expected += weight * layer.delta()
    joined = concatenate(weighted)
    assert joined.rank == sum(rank for rank, *_ in parts) and joined.scale == 1
    assert torch.allclose(joined.delta(), expected, atol=1e-4)


def test_the_ratio_counts_once(saved: Saved, tmp_path: Path) -> None:
    """sd-scripts' merge makes 0.25 of one file with ratio 0.5."""
    source = saved(lora_tensors(SD15))
    run([(source, 0.5)], tmp_path / "half.safetensors")
    for name, change in deltas(tmp_path / "half.safetensors").items():
        assert torch.allclose(change, deltas(source)[name] / 2, atol=1e-6)


def test_a1111s_scale_takes_the_place_of_alpha(saved: Saved, tmp_path: Path) -> None:
    name = next(iter(SD15))
    tensors = lora_tensors({name: SD15[name]}, rank=4, alpha=2.0)
    source = saved({**tensors, f"{name}.scale": torch.tensor(3.0)}, "a")
    run([(source, 1.0)], tmp_path / "c.safetensors")
    expected = 3 * tensors[f"{name}.lora_up.weight"].flatten(1) @ tensors[f"{name}.lora_down.weight"].flatten(1)
    for path in (source, tmp_path / "c.safetensors"):
        assert torch.allclose(deltas(path)[name], expected, atol=1e-5)


def test_an_alpha_that_bf16_cannot_hold_stays_exact(saved: Saved, tmp_path: Path) -> None:
    layers = {PROJ: (512, 512)}
    files = [saved(lora_tensors(layers, rank=rank, seed=rank, dtype=torch.bfloat16), f"r{rank}") for rank in (128, 129)]
    run([(file, 1.0) for file in files], tmp_path / "c.safetensors")
    tensors = load_file(tmp_path / "c.safetensors")
    assert float(tensors[f"{PROJ}.alpha"]) == 257 and tensors[f"{PROJ}.lora_up.weight"].dtype == torch.bfloat16


def test_a_rank_means_svd_of_the_exact_sum(saved: Saved, tmp_path: Path) -> None:
    first, second = saved(lora_tensors(SDXL, seed=1), "a"), saved(lora_tensors(SDXL, seed=2), "b")
    report = run([(first, 1.0), (second, 0.5)], tmp_path / "c.safetensors", rank=5)
    first_deltas, second_deltas = deltas(first), deltas(second)
    for loss in report.layers:
        s = torch.linalg.svdvals(first_deltas[loss.name] + 0.5 * second_deltas[loss.name])
        assert loss.rank == 5 and loss.share == pytest.approx(float(s[5:].norm() / s.norm()), rel=1e-3)
    joined = run([(first, 1.0), (second, 0.5)], tmp_path / "d.safetensors", rank=8)
    assert joined.loss is not None and joined.loss.worst < 1e-5


def test_another_naming_and_a_fused_layer_merge_with_kohya_s(saved: Saved, tmp_path: Path) -> None:
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    first = saved(lora_tensors({name: FLUX[name]}), "a")
    front = "transformer.transformer_blocks.0.attn.to_k"
    second = saved({f"{front}.lora_A.weight": torch.ones(2, 64), f"{front}.lora_B.weight": torch.ones(64, 2)}, "b")
    run([(first, 1.0), (second, 1.0)], tmp_path / "c.safetensors")
    added = deltas(tmp_path / "c.safetensors")[name] - deltas(first)[name]
    expected = torch.cat([torch.zeros(64, 64), torch.full((64, 64), 2.0), torch.zeros(64, 64)])
    assert torch.allclose(added, expected, atol=1e-5)


def test_ties_by_hand() -> None:
    first_deltas = Layer("x", FULL, {"diff": torch.tensor([[4.0, -3.0, 0.1, 2.0]])})
    second_deltas = Layer("x", FULL, {"diff": torch.tensor([[2.0, 5.0, -4.0, 0.1]])})
    # half of each stays: [4, −3, 0, 0] and [0, 5, −4, 0]; signs +, +, −; the mean of those that agree
    assert torch.equal(ties([(first_deltas, 1.0), (second_deltas, 1.0)], 0.5), torch.tensor([[4.0, 5.0, -4.0, 0.0]]))
    assert torch.equal(ties([(first_deltas, 1.0), (second_deltas, 1.0)], 1.0), torch.tensor([[3.0, 5.0, -4.0, 1.05]]))
    assert torch.equal(ties([(first_deltas, 2.0), (second_deltas, 0.5)], 0.5), torch.tensor([[8.0, -6.0, -2.0, 0.0]]))


def test_dare_keeps_the_mean_and_is_drawn_from_the_seed_alone() -> None:
    layer = Layer("x", FULL, {"diff": torch.ones(200, 200)})
    result = dare([(layer, 1.0)], 0.25, 7)
    assert set(result.unique().tolist()) == {0.0, 4.0}
    assert float(result.mean()) == pytest.approx(1, abs=0.03)
    torch.manual_seed(99)
    assert torch.equal(result, dare([(layer, 1.0)], 0.25, 7))
    assert not torch.equal(result, dare([(layer, 1.0)], 0.25, 8))
    assert torch.equal(dare([(layer, 2.0)], 1.0, 7), 2 * layer.delta())


@pytest.mark.parametrize("method", ["ties", "dare"])
def test_ties_and_dare_as_files(method: str, saved: Saved, tmp_path: Path) -> None:
    files = [(saved(lora_tensors({PROJ: (32, 32, 1, 1)}, seed=n), f"f{n}"), 1.0) for n in (1, 2)]
    low = run(files, tmp_path / "low.safetensors", method=method)
    high = run(files, tmp_path / "high.safetensors", method=method, rank=32)
    assert low.ranks == {"8": 1} and low.loss is not None and 0.1 < low.loss.total < 1
    assert high.loss is not None and high.loss.total < 1e-5


def test_a_loha_in_a_merge_is_approximated_with_a_note(saved: Saved, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shapes = {"hada_w1_a": (32, 2), "hada_w1_b": (2, 32), "hada_w2_a": (32, 2), "hada_w2_b": (2, 32), "alpha": ()}
    loha = saved({f"{PROJ}.{part}": torch.randn(shape).abs() for part, shape in shapes.items()}, "loha")
    lora = saved(lora_tensors({PROJ: (32, 32, 1, 1)}), "lora")
    report = run([(loha, 1.0), (lora, 1.0)], tmp_path / "c.safetensors")
    assert report.loss is not None and report.loss.total > 0
    assert any("LoHa" in note for note in report.notes)


@pytest.mark.parametrize(
    ("first", "second", "code", "parts"),
    [
        ({**SD15}, {**SDXL}, "loras-for-different-models", ("SD 1.5", "SDXL")),
        (
            {PROJ: (32, 32)},
            {PROJ: (64, 32)},
            "loras-of-different-sizes",
            (PROJ, "[32, 32]", "b.safetensors", "[32, 64]"),
        ),
    ],
)
def test_files_that_do_not_belong_together(
    first: Any, second: Any, code: str, parts: tuple[str, ...], saved: Saved, tmp_path: Path
) -> None:
    files = [(saved(lora_tensors(first), "a"), 1.0), (saved(lora_tensors(second), "b"), 1.0)]
    with refused(code, *parts):
        run(files, tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        ({"method": "svd"}, "no-rank", "--method svd"),
        ({"method": "concat", "rank": 4}, "concat-with-rank", "--rank"),
        ({"method": "ties", "density": 0.0}, "share-out-of-range", "--density 0"),
        ({"rank": 0}, "rank-too-small", "--rank 0"),
        ({"into": "x.safetensors", "rank": 4}, "lora-options-with-into", "--rank"),
    ],
)
def test_values_that_cannot_be(options: Any, code: str, part: str, saved: Saved, tmp_path: Path) -> None:
    with refused(code, part):
        run([(saved(lora_tensors(SD15)), 1.0)], tmp_path / "c.safetensors", **options)


def test_weights_of_zero_leave_nothing(saved: Saved, tmp_path: Path) -> None:
    with refused("all-weights-zero"):
        run([(saved(lora_tensors(SD15)), 0.0)], tmp_path / "c.safetensors")
