"""Image similarity: perceptual hashes to find candidates, and small thumbnails to decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    import numpy as np

THUMB = 24
"""Side in px of the thumbnail for the decision; any image is stretched to it."""
MAX_DISTANCE = 11
"""Most different bits of 64 between the hashes of two versions of an image; measured by
`benchmarks/dataset_report.py`."""
MIN_CORRELATION = 0.965
"""Of the aligned thumbnails of two versions of an image; measured by the same benchmark."""
_CROPS = (0.94, 0.88)
"""Sides of the middle parts that are also hashed, to match trimmed versions."""
_BANDS, _BAND_BITS, _BAND_RADIUS = 4, 16, 2
"""Two hashes that differ in at most 11 bits differ in at most 2 in one of 4 bands (Norouzi et al. 2012, "Fast Search in
Hamming Space with Multi-Index Hashing")."""
_ALIGNMENTS = tuple(
    (scale, (1 - scale) * x / 2, (1 - scale) * y / 2)
    for scale in (1.0, 0.97, 0.94, 0.91, 0.88)
    for x in ((0, 1, 2) if scale < 1 else (0,))
    for y in ((0, 1, 2) if scale < 1 else (0,))
)
"""(side, left, top) of the parts of one image that are compared with the full other image."""
_MAX_LIGHT_SHIFT, _MAX_TINT_SHIFT = 40.0, 12.0
"""Most levels between the mean colours of two versions: of all channels, and of one channel beyond that. Above it, they
are different images."""


def hashes_of(grey: Image.Image) -> tuple[int, ...]:
    """64-bit perceptual hashes (ImageHash's phash) of an image, its middle parts, and its mirror image."""
    import imagehash

    side = 128
    small = grey.resize((side, side), Image.Resampling.BOX)
    margins = [round(side * (1 - part) / 2) for part in _CROPS]
    versions = [small, *(small.crop((m, m, side - m, side - m)) for m in margins)]
    versions.append(small.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    return tuple(int(str(imagehash.phash(version)), 16) for version in versions)


def thumb_of(image: Image.Image) -> bytes:
    """The RGB thumbnail, rows of pixels from the top, THUMB x THUMB x 3 bytes."""
    return image.resize((THUMB, THUMB), Image.Resampling.BOX).tobytes()


def close_pairs(
    queries: np.ndarray, targets: np.ndarray, distance: int = MAX_DISTANCE
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of 64-bit hashes that differ in at most `distance` bits, in chunks; the same pair may come up to four
    times.

    Looks up each band of a query, with every change of up to two bits, in the sorted bands of the targets: n log n for
    well-distributed hashes.

    Args:
        queries: [n] uint64.
        targets: [m] uint64.
        distance: at most `MAX_DISTANCE`; above it pairs are missed.

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
        query_bands = ((queries >> shift) & low).astype(np.int64)
        target_bands = ((targets >> shift) & low).astype(np.int64)
        order = np.argsort(target_bands, kind="stable")
        starts = np.searchsorted(target_bands[order], np.arange((1 << _BAND_BITS) + 1))
        for mask in masks:
            keys = query_bands ^ mask
            counts = starts[keys + 1] - starts[keys]
            total = int(counts.sum())
            if not total:
                continue
            left = np.repeat(np.arange(len(queries)), counts)
            inside = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
            right = order[np.repeat(starts[keys], counts) + inside]
            near = np.bitwise_count(queries[left] ^ targets[right]) <= distance
            if near.any():
                yield left[near], right[near]


def same_image(first: bytes, second: bytes) -> bool:
    """Whether two thumbnails show the same image: trimmed by up to 12 %, compressed, brightened, but not repainted."""
    return max(_best(first, second), _best(second, first)) >= MIN_CORRELATION


def mirrored(thumb: bytes) -> bytes:
    """The thumbnail of the mirror image."""
    return Image.frombytes("RGB", (THUMB, THUMB), thumb).transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()


def _best(full: bytes, trimmed: bytes) -> float:
    """The correlation of `trimmed` with the best-matching part of `full`."""
    import numpy as np

    image = Image.frombytes("RGB", (THUMB, THUMB), full)
    fixed = np.frombuffer(trimmed, np.uint8).reshape(-1, 3).astype(np.float32)
    best = -1.0
    for scale, left, top in _ALIGNMENTS:
        box = (THUMB * left, THUMB * top, THUMB * (left + scale), THUMB * (top + scale))
        part = image if scale == 1 else image.resize((THUMB, THUMB), Image.Resampling.BILINEAR, box)
        best = max(best, _correlation(fixed, np.asarray(part).reshape(-1, 3).astype(np.float32)))
        if scale == 1 and best < 0.4:
            break  # a different image: trimming does not change that much
    return best


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Of two images [N, 3] around their mean colours; -1 if those differ much."""
    import numpy as np

    means = first.mean(0), second.mean(0)
    shift = means[0] - means[1]
    if abs(shift.mean()) > _MAX_LIGHT_SHIFT or np.abs(shift - shift.mean()).max() > _MAX_TINT_SHIFT:
        return -1.0
    first, second = first - means[0], second - means[1]
    size = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / size if size else 0.0


class Groups:
    """Groups of items, joined pair by pair (union-find)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, item: int) -> int:
        """The representative of the group of `item`."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, a: int, b: int) -> None:
        """Join the groups of two items."""
        first, second = sorted((self.root(a), self.root(b)))
        self._parent[second] = first

    def together(self, a: int, b: int) -> bool:
        """Whether two items are in the same group."""
        return self.root(a) == self.root(b)

    def groups(self) -> list[list[int]]:
        """Groups of two or more, each in the order of its items."""
        groups: dict[int, list[int]] = {}
        for item in range(len(self._parent)):
            groups.setdefault(self.root(item), []).append(item)
        return [group for group in groups.values() if len(group) > 1]


def as_words(hashes: Sequence[int]) -> np.ndarray:
    """Hashes as [n] uint64."""
    import numpy as np

    return np.array(hashes, dtype=np.uint64)
