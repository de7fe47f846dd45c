"""Hashes, the search for close ones, and the thumbnails that decide."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from engine.dataset.report.likeness import (
    MAX_DISTANCE,
    Groups,
    as_words,
    can_be_same,
    close_pairs,
    hashes_of,
    same_image,
    thumb_of,
)
from tests.drawn_images import scene, trimmed


def pairs(queries: np.ndarray, targets: np.ndarray, distance: int) -> set[tuple[int, int]]:
    return {
        (int(a), int(b))
        for query, other in close_pairs(queries, targets, distance)
        for a, b in zip(query, other, strict=True)
    }


@pytest.mark.parametrize("distance", [0, 5, MAX_DISTANCE])
def test_the_search_finds_all_close_hashes_and_no_others(distance: int) -> None:
    """Against every pair: random hashes, and each once more with 0 to 16 bits changed."""
    rng = random.Random(distance)
    words = [rng.getrandbits(64) for _ in range(120)]
    words += [word ^ sum(1 << bit for bit in rng.sample(range(64), place % 17)) for place, word in enumerate(words)]
    every = {
        (a, b)
        for a, query in enumerate(words)
        for b, other in enumerate(words)
        if (query ^ other).bit_count() <= distance
    }
    assert pairs(as_words(words), as_words(words), distance) == every
    assert len(every) > 240


def test_no_more_bits_than_the_bands_can_find() -> None:
    with pytest.raises(AssertionError):
        next(close_pairs(as_words([1]), as_words([1]), MAX_DISTANCE + 1))


@pytest.mark.parametrize("seed", range(3))
def test_versions_are_one_image(seed: int) -> None:
    image = scene(seed)
    for version in (trimmed(image), ImageEnhance.Brightness(image).enhance(1.15), image.resize((200, 160))):
        assert same_image(thumb_of(image), thumb_of(version))
        first, parts = hashes_of(image.convert("L")), hashes_of(version.convert("L"))
        near = min((query ^ other).bit_count() for query in first[:3] for other in parts[:3])
        assert near <= MAX_DISTANCE


def test_another_colour_is_another_image() -> None:
    image = scene(4)
    red, green, blue = image.split()
    repainted = Image.merge("RGB", (green, blue, red))
    assert not same_image(thumb_of(image), thumb_of(repainted))
    assert not same_image(thumb_of(image), thumb_of(scene(5)))


def test_groups_grow_together() -> None:
    groups = Groups(6)
    groups.join(4, 1)
    groups.join(2, 5)
    groups.join(5, 1)
    assert groups.groups() == [[1, 2, 4, 5]]
    assert groups.together(2, 4)
    assert not groups.together(0, 4)


@pytest.mark.parametrize("changed_bits", [0, 3])
def test_many_hashes_that_are_nearly_the_same(changed_bits: int) -> None:
    """Frames of a film: their pairs connect all, and their number does not grow with the square of the frames'."""
    rng = random.Random(1)
    film = [rng.getrandbits(64)] * 1500
    words = as_words([word ^ sum(1 << bit for bit in rng.sample(range(64), changed_bits)) for word in film])
    groups, count = Groups(len(words)), 0
    for left, right in close_pairs(words, words):
        count += len(left)
        apart = groups.apart(left, right)
        for a, b in zip(left[apart].tolist(), right[apart].tolist(), strict=True):
            groups.join(a, b)
    assert groups.groups() == [list(range(1500))]
    if not changed_bits:
        assert count == 1500 * 4 * 128  # in each band


def test_an_exact_match_among_many_hashes_of_the_same_band() -> None:
    """The nearest are compared, also where more have the same bits in each band."""
    rng = random.Random(2)
    words = as_words([0xABCD << 48 | rng.getrandbits(48) for _ in range(3000)])
    assert {(place, place) for place in range(3000)} <= pairs(words, words, 0)


def test_what_can_be_the_same_image() -> None:
    """The quick look at many pairs excludes none that the exact look would find."""
    thumbs = [thumb_of(scene(seed)) for seed in range(6)]
    thumbs += [thumb_of(trimmed(scene(seed))) for seed in range(6)]
    both = [(a, b) for a in thumbs for b in thumbs]
    likely = can_be_same([a for a, _ in both], [b for _, b in both])
    same = [same_image(a, b) for a, b in both]
    assert [*(likely & same)] == same
    assert sum(same) == 24
    assert likely.sum() < len(both)


def test_pairs_of_items_that_are_apart() -> None:
    groups = Groups(5)
    groups.join(3, 4)
    groups.join(2, 3)
    left, right = np.array([2, 0, 1, 1]), np.array([4, 1, 1, 2])
    assert groups.apart(left, right).tolist() == [False, True, False, True]
