"""Ranks by handmade spectra, as sd-scripts' resize picks them: an index i, clamped to 1 … n − 1, and k = i + 1."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.adapters.tools.lowrank import pair_distance, pair_norm, spectrum_of_matrix, svd_of_kron, svd_of_pair
from engine.adapters.tools.spectra import Choice

EVEN = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25]
STEP = [10.0, 10.0, 10.0, 0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    ("spectrum", "choice", "rank"),
    [
        (EVEN, Choice("none", most=3), 3),
        (EVEN, Choice("none", most=64), 6),
        (EVEN, Choice("sv_ratio", 4), 3),  # above 8/4 are 8 and 4: i = 2
        (EVEN, Choice("sv_ratio", 5), 4),  # above 1.6 are three
        (EVEN, Choice("sv_ratio", 1000), 6),  # i = 6 is clamped to 5
        (EVEN, Choice("sv_ratio", 1), 2),  # none is above 8: i = 0 is clamped to 1
        (EVEN, Choice("sv_cumulative", 0.5), 2),  # 8/15.75 = 0.508 reaches 0.5 at index 0: i = 1
        (EVEN, Choice("sv_cumulative", 0.75), 3),  # 0.762 at index 1: i = 2
        (EVEN, Choice("sv_cumulative", 0.99), 6),  # i = 6 is clamped to 5
        (EVEN, Choice("sv_fro", 0.9), 3),  # squares 64, 80, 84, … of 85.3; 0.81 is passed at index 1: i = 2
        (EVEN, Choice("sv_fro", 0.8), 2),  # 0.64 is passed at index 0: i = 1
        (EVEN, Choice("sv_fro", 0.9, most=2), 2),
        (STEP, Choice("sv_fro", 0.9), 4),  # 0.81 is passed at index 2: i = 3
        (STEP, Choice("sv_ratio", 20), 4),
        ([1e-7, 1e-8], Choice("none", most=2), 1),
        ([1e-7, 1e-8], Choice("sv_fro", 0.99), 1),
        ([3.0], Choice("sv_fro", 0.9), 1),
    ],
)
def test_the_rank_of_a_spectrum(spectrum: list[float], choice: Choice, rank: int) -> None:
    assert choice.rank(torch.tensor(spectrum)) == rank


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=12), st.floats(0.05, 1), st.integers(1, 12))
def test_what_is_kept_is_at_least_what_was_asked_for(values: list[float], share: float, most: int) -> None:
    s = torch.tensor(sorted(values, reverse=True))
    kept = s[: Choice("sv_fro", share).rank(s)]
    assert kept.double().norm() >= share * s.double().norm() * (1 - 1e-9)
    assert 1 <= Choice("sv_fro", share, most).rank(s) <= most


@given(st.integers(1, 6), st.integers(6, 12), st.integers(6, 12), st.integers(0, 99))
def test_svd_of_two_factors(rank: int, outputs: int, inputs: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)
    u, s, vh = svd_of_pair(down, up)
    assert torch.allclose((u * s) @ vh, up @ down, atol=1e-5)
    assert torch.allclose(s, torch.linalg.svdvals(up @ down)[:rank], atol=1e-4)
    assert pair_norm(down, up) == pytest.approx(float((up @ down).norm()), rel=1e-5)


def test_svd_of_a_kronecker_product() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(3, 4), torch.randn(5, 2)
    u, s, vh = svd_of_kron(first, second)
    assert torch.allclose((u * s) @ vh, torch.kron(first, second), atol=1e-5)
    assert bool((s[:-1] >= s[1:]).all())


def test_the_distance_of_products_is_exact_where_they_nearly_agree() -> None:
    torch.manual_seed(0)
    down, up = torch.randn(4, 50), torch.randn(60, 4)
    other = up * (1 + 1e-4)
    expected = 1e-4 * float((up @ down).norm())
    assert pair_distance((down, up), (down, other)) == pytest.approx(expected, rel=1e-3)


def test_few_ranks_of_a_large_matrix_are_found_without_moving_random_states() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(200, 3) @ torch.randn(3, 160) + 1e-3 * torch.randn(200, 160)
    before = torch.random.get_rng_state()
    spectrum = spectrum_of_matrix(matrix, 3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.allclose(spectrum.s[:3], torch.linalg.svdvals(matrix)[:3], rtol=1e-4)
