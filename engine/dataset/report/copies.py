"""Duplicates: images with equal pixels, other versions of an image, mirrored images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.dataset.images import ImageInfo
from engine.dataset.report.likeness import (
    AT_ONCE,
    Groups,
    as_words,
    can_be_same,
    close_pairs,
    mirrored,
    same_image,
)
from engine.dataset.report.measures import Measures

if TYPE_CHECKING:
    import numpy as np

_MIN_RANGE = 24
"""Levels; the hash of an image with less contrast is meaningless."""


@dataclass(frozen=True)
class Copies:
    """Groups of two or more, in the order of the images."""

    exact: tuple[tuple[ImageInfo, ...], ...]
    near: tuple[tuple[ImageInfo, ...], ...]
    """Other versions; of equal images only the first."""
    mirrored: tuple[tuple[ImageInfo, ...], ...]
    """An image and its mirror image; of each group of versions only the first."""


def find_copies(images: Sequence[ImageInfo], measures: Sequence[Measures], thumbs: Sequence[bytes]) -> Copies:
    """Group images; `measures` and `thumbs` are parallel to `images`."""
    same: dict[str, list[int]] = {}
    for index, measured in enumerate(measures):
        same.setdefault(measured.pixels, []).append(index)
    first = [group[0] for group in same.values() if _textured(measures[group[0]])]
    near = _versions(first, measures, thumbs)
    representatives = _representatives(first, near)
    flipped = _mirror_pairs(representatives, measures, thumbs)

    def image_groups(groups: list[list[int]]) -> tuple[tuple[ImageInfo, ...], ...]:
        return tuple(tuple(images[index] for index in group) for group in groups)

    return Copies(
        image_groups([group for group in same.values() if len(group) > 1]), image_groups(near), image_groups(flipped)
    )


def _textured(measures: Measures) -> bool:
    low, _, high, *_ = measures.exposure
    return high - low >= _MIN_RANGE


def _versions(first: list[int], measures: Sequence[Measures], thumbs: Sequence[bytes]) -> list[list[int]]:
    """Groups of images that are versions of one image."""
    return _alike(first, 0, measures, [thumbs[index] for index in first], thumbs)


def _mirror_pairs(first: list[int], measures: Sequence[Measures], thumbs: Sequence[bytes]) -> list[list[int]]:
    """Groups of images that mirror each other; a symmetric image does not mirror itself."""
    return _alike(first, 3, measures, [mirrored(thumbs[index]) for index in first], thumbs)


def _alike(
    first: list[int], version: int, measures: Sequence[Measures], own_thumbs: list[bytes], thumbs: Sequence[bytes]
) -> list[list[int]]:
    """Groups of images whose hash `version` is close to the hash of another's full image or middle part, and whose
    thumbnail in `own_thumbs` matches the other's."""
    queries = as_words([measures[index].hashes[version] for index in first])
    parts = as_words([measures[index].hashes[part] for part in (0, 1, 2) for index in first])
    others = [thumbs[index] for index in first]
    groups, rejected = Groups(len(first)), set[tuple[int, int]]()
    for left, right in close_pairs(queries, parts):
        right %= len(first)
        for a, b in _likely(groups, own_thumbs, others, left, right):
            if (a, b) in rejected or groups.together(a, b):
                continue
            if same_image(own_thumbs[a], others[b]):
                groups.join(a, b)
            else:
                rejected.add((a, b))
    return [[first[place] for place in group] for group in groups.groups()]


def _likely(
    groups: Groups, own: Sequence[bytes], others: Sequence[bytes], left: np.ndarray, right: np.ndarray
) -> Iterator[tuple[int, int]]:
    """The pairs that are in different groups when their turn comes, and whose thumbnails can show the same image."""
    apart = groups.apart(left, right)
    left, right = left[apart], right[apart]
    for start in range(0, len(left), AT_ONCE):
        some, other = left[start : start + AT_ONCE], right[start : start + AT_ONCE]
        apart = groups.apart(some, other)
        pairs = list(zip(some[apart].tolist(), other[apart].tolist(), strict=True))
        likely = can_be_same([own[a] for a, _ in pairs], [others[b] for _, b in pairs])
        yield from itertools.compress(pairs, likely)


def _representatives(first: list[int], near: list[list[int]]) -> list[int]:
    """The first image of each group, and all images in no group."""
    extra = {index for group in near for index in group[1:]}
    return [index for index in first if index not in extra]
