"""Pictures that are the same picture: pixel by pixel, in another version, or mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.dataset.pictures import Picture
from engine.dataset.report.likeness import Groups, as_words, close_pairs, mirrored, same_picture
from engine.dataset.report.measures import Measures

_MIN_RANGE = 24
"""Levels; what has less contrast has no hash that means anything."""


@dataclass(frozen=True)
class Copies:
    """Groups of two and more, in the order of the pictures."""

    exact: tuple[tuple[Picture, ...], ...]
    near: tuple[tuple[Picture, ...], ...]
    """Other versions: of pictures that are equal only the first."""
    mirrored: tuple[tuple[Picture, ...], ...]
    """A picture and its mirror image: the first of each group of versions."""


def find_copies(pictures: Sequence[Picture], measures: Sequence[Measures], thumbs: Sequence[bytes]) -> Copies:
    """Group pictures; `measures` and `thumbs` belong to `pictures` one by one."""
    same: dict[str, list[int]] = {}
    for index, one in enumerate(measures):
        same.setdefault(one.pixels, []).append(index)
    first = [group[0] for group in same.values() if _textured(measures[group[0]])]
    near = _versions(first, measures, thumbs)
    stand_ins = _stand_ins(first, near)
    flipped = _mirror_pairs(stand_ins, measures, thumbs)

    def named(groups: list[list[int]]) -> tuple[tuple[Picture, ...], ...]:
        return tuple(tuple(pictures[index] for index in group) for group in groups)

    return Copies(named([group for group in same.values() if len(group) > 1]), named(near), named(flipped))


def _textured(one: Measures) -> bool:
    low, _, high, *_ = one.exposure
    return high - low >= _MIN_RANGE


def _versions(first: list[int], measures: Sequence[Measures], thumbs: Sequence[bytes]) -> list[list[int]]:
    """Groups of pictures that are versions of one picture."""
    return _alike(first, 0, measures, [thumbs[index] for index in first], thumbs)


def _mirror_pairs(first: list[int], measures: Sequence[Measures], thumbs: Sequence[bytes]) -> list[list[int]]:
    """Groups of pictures that are mirror images of each other; one that is symmetric is none of itself."""
    return _alike(first, 3, measures, [mirrored(thumbs[index]) for index in first], thumbs)


def _alike(
    first: list[int], version: int, measures: Sequence[Measures], seen: list[bytes], thumbs: Sequence[bytes]
) -> list[list[int]]:
    """Groups of those whose hash of this version is close to that of another's whole or middle, and whose thumbnail as
    `seen` fits."""
    asked = as_words([measures[index].hashes[version] for index in first])
    parts = as_words([measures[index].hashes[part] for part in (0, 1, 2) for index in first])
    groups, refused = Groups(len(first)), set[tuple[int, int]]()
    for one, other in close_pairs(asked, parts):
        for a, b in zip(one.tolist(), (other % len(first)).tolist(), strict=True):
            if a == b or (a, b) in refused or groups.together(a, b):
                continue
            if same_picture(seen[a], thumbs[first[b]]):
                groups.join(a, b)
            else:
                refused.add((a, b))
    return [[first[place] for place in group] for group in groups.groups()]


def _stand_ins(first: list[int], near: list[list[int]]) -> list[int]:
    """One picture for each group, and all that are in none."""
    extra = {index for group in near for index in group[1:]}
    return [index for index in first if index not in extra]
