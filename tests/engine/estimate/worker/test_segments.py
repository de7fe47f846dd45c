"""What the allocator takes: pages of 2 MiB for small tensors, of 20 MiB for large ones, gaps used again."""

from __future__ import annotations

import random

import pytest

from engine.estimate.worker.segments import Segments, rounded

MIB = 2**20


@pytest.mark.parametrize(("size", "counted"), [(1, 512), (512, 512), (513, 1024), (MIB, MIB)])
def test_sizes_are_rounded(size: int, counted: int) -> None:
    assert rounded(size) == counted


def test_pages() -> None:
    segments = Segments()
    segments.allocate(1, 512)
    assert segments.reserved == 2 * MIB
    segments.allocate(2, 21 * MIB)
    assert segments.reserved == 2 * MIB + 40 * MIB


def test_a_gap_is_used_again_the_smallest_that_holds_it() -> None:
    segments = Segments()
    for key, size in enumerate((8, 2, 4, 2, 4)):
        segments.allocate(key, size * MIB)
    assert segments.reserved == 20 * MIB
    segments.free(0)
    segments.free(2)
    segments.allocate(9, 4 * MIB)  # into the gap of 4, and not into that of 8
    segments.allocate(10, 8 * MIB)
    assert segments.reserved == 20 * MIB


def test_neighbouring_gaps_become_one() -> None:
    segments = Segments()
    for key in range(4):
        segments.allocate(key, 5 * MIB)
    for key in (0, 2, 1):
        segments.free(key)
    segments.allocate(9, 15 * MIB)
    assert segments.reserved == 20 * MIB


def test_pieces_that_do_not_fit_make_it_grow() -> None:
    segments = Segments()
    for key in range(8):
        segments.allocate(key, 5 * MIB)
    for key in range(0, 8, 2):
        segments.free(key)
    segments.allocate(9, 6 * MIB)
    assert segments.reserved == 60 * MIB
    segments.free(9)
    segments.trim()
    assert segments.reserved == 40 * MIB


def test_it_never_holds_less_than_is_in_use() -> None:
    draws, segments, live = random.Random(1), Segments(), {}
    for key in range(2000):
        if live and draws.random() < 0.5:
            gone = draws.choice(list(live))
            segments.free(gone)
            del live[gone]
        else:
            live[key] = rounded(draws.choice((700, 300_000, 3_000_000, 30_000_000)))
            segments.allocate(key, live[key])
        assert segments.reserved >= sum(live.values())
