"""How alike pictures are: perceptual hashes that find candidates quickly, and small thumbnails that decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    import numpy as np

THUMB = 24
"""Side in px of the thumbnail that decides; any picture is stretched to it."""
MAX_DISTANCE = 11
"""Bits of 64 in which the hashes of one picture in two versions may differ; `benchmarks/dataset_report.py` measures
it."""
MIN_CORRELATION = 0.965
"""Of the aligned thumbnails of two versions of one picture; measured by the same."""
_CROPS = (0.94, 0.88)
"""Sides of the middle parts that are hashed too, so that a trimmed version meets its original."""
_BANDS, _BAND_BITS, _BAND_RADIUS = 4, 16, 2
"""Two hashes that differ in at most 11 bits differ in at most 2 in one of 4 bands (Norouzi et al. 2012, "Fast Search in
Hamming Space with Multi-Index Hashing")."""
_ALIGNMENTS = tuple(
    (scale, (1 - scale) * x / 2, (1 - scale) * y / 2)
    for scale in (1.0, 0.97, 0.94, 0.91, 0.88)
    for x in ((0, 1, 2) if scale < 1 else (0,))
    for y in ((0, 1, 2) if scale < 1 else (0,))
)
"""(side, left, top) of the parts of one picture that are compared with the whole of the other."""
_MAX_LIGHT_SHIFT, _MAX_TINT_SHIFT = 40.0, 12.0
"""Levels between the mean colours of two versions, of all channels and of one channel beyond that; above it is another
picture of the same drawing."""


def hashes_of(grey: Image.Image) -> tuple[int, ...]:
    """64-bit perceptual hashes (ImageHash's phash) of a picture, its middle parts, and its mirror image."""
    import imagehash

    side = 128
    small = grey.resize((side, side), Image.Resampling.BOX)
    margins = [round(side * (1 - part) / 2) for part in _CROPS]
    versions = [small, *(small.crop((m, m, side - m, side - m)) for m in margins)]
    versions.append(small.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    return tuple(int(str(imagehash.phash(version)), 16) for version in versions)


def thumb_of(picture: Image.Image) -> bytes:
    """The RGB thumbnail, rows of pixels from the top, THUMB x THUMB x 3 bytes."""
    return picture.resize((THUMB, THUMB), Image.Resampling.BOX).tobytes()


def close_pairs(
    queries: np.ndarray, targets: np.ndarray, distance: int = MAX_DISTANCE
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of 64-bit hashes that differ in at most `distance` bits, in chunks; the same pair may come up to four
    times.

    Looks each band of a query up in the sorted bands of the targets, under every change of up to two of its bits:
    n log n for hashes that are spread, whatever the number of pictures.

    Args:
        queries: [n] uint64.
        targets: [m] uint64.
        distance: at most `MAX_DISTANCE`; above it pairs would be missed.

    Yields:
        indices into queries and into targets.
    """
    import numpy as np

    assert distance < _BANDS * (_BAND_RADIUS + 1), "more than the bands guarantee"
    masks = [0, *(1 << i for i in range(_BAND_BITS))]
    masks += [1 << i | 1 << j for i in range(_BAND_BITS) for j in range(i)]
    for band in range(_BANDS):
        shift = np.uint64(band * _BAND_BITS)
        low = np.uint64((1 << _BAND_BITS) - 1)
        asked = ((queries >> shift) & low).astype(np.int64)
        there = ((targets >> shift) & low).astype(np.int64)
        order = np.argsort(there, kind="stable")
        starts = np.searchsorted(there[order], np.arange((1 << _BAND_BITS) + 1))
        for mask in masks:
            keys = asked ^ mask
            counts = starts[keys + 1] - starts[keys]
            total = int(counts.sum())
            if not total:
                continue
            one = np.repeat(np.arange(len(queries)), counts)
            inside = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
            other = order[np.repeat(starts[keys], counts) + inside]
            near = np.bitwise_count(queries[one] ^ targets[other]) <= distance
            if near.any():
                yield one[near], other[near]


def same_picture(one: bytes, other: bytes) -> bool:
    """Whether two thumbnails show one picture: trimmed by up to 12 %, compressed, brightened, but not repainted."""
    return max(_best(one, other), _best(other, one)) >= MIN_CORRELATION


def mirrored(thumb: bytes) -> bytes:
    """The thumbnail of the mirror image."""
    return Image.frombytes("RGB", (THUMB, THUMB), thumb).transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()


def _best(whole: bytes, trimmed: bytes) -> float:
    """The correlation of `trimmed` with that part of `whole` that fits best."""
    import numpy as np

    image = Image.frombytes("RGB", (THUMB, THUMB), whole)
    fixed = np.frombuffer(trimmed, np.uint8).reshape(-1, 3).astype(np.float32)
    best = -1.0
    for scale, left, top in _ALIGNMENTS:
        box = (THUMB * left, THUMB * top, THUMB * (left + scale), THUMB * (top + scale))
        part = image if scale == 1 else image.resize((THUMB, THUMB), Image.Resampling.BILINEAR, box)
        best = max(best, _correlation(fixed, np.asarray(part).reshape(-1, 3).astype(np.float32)))
        if scale == 1 and best < 0.4:
            break  # another picture: trimming changes much, but not everything
    return best


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of two pictures [N, 3] about their own mean colours; -1 where these are far apart."""
    import numpy as np

    means = one.mean(0), other.mean(0)
    shift = means[0] - means[1]
    if abs(shift.mean()) > _MAX_LIGHT_SHIFT or np.abs(shift - shift.mean()).max() > _MAX_TINT_SHIFT:
        return -1.0
    one, other = one - means[0], other - means[1]
    size = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / size if size else 0.0


class Groups:
    """Items that belong together, found pair by pair (union-find)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, item: int) -> int:
        """The one item that stands for the group of `item`."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, one: int, other: int) -> None:
        """These two belong together."""
        first, second = sorted((self.root(one), self.root(other)))
        self._parent[second] = first

    def together(self, one: int, other: int) -> bool:
        """Whether that is known of these two."""
        return self.root(one) == self.root(other)

    def groups(self) -> list[list[int]]:
        """Groups of two and more, each in the order of its items."""
        found: dict[int, list[int]] = {}
        for item in range(len(self._parent)):
            found.setdefault(self.root(item), []).append(item)
        return [group for group in found.values() if len(group) > 1]


def as_words(hashes: Sequence[int]) -> np.ndarray:
    """Hashes as [n] uint64."""
    import numpy as np

    return np.array(hashes, dtype=np.uint64)
