"""Image similarity: perceptual hashes to find candidates, and small thumbnails to decide."""

from __future__ import annotations

from array import array
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
AT_ONCE = 1024
"""Pairs of thumbnails for a call of `can_be_same`."""
MIN_CORRELATION = 0.965
"""Of the aligned thumbnails of two versions of an image; measured by the same benchmark."""
_CROPS = (0.94, 0.88)
"""Sides of the middle parts that are also hashed, to match trimmed versions."""
_BANDS, _BAND_BITS, _BAND_RADIUS = 4, 16, 2
"""Two hashes that differ in at most 11 bits differ in at most 2 in one of 4 bands (Norouzi et al. 2012, "Fast Search in
Hamming Space with Multi-Index Hashing")."""
_MOST_IN_BAND = 128
"""Targets with the same band that a query is compared with: those nearest to it when the hashes are sorted."""
_CHUNK = 1 << 18
"""Most pairs whose hashes are compared at a time, to bound memory."""
_TRIMS = tuple(
    (scale, (1 - scale) * x / 2, (1 - scale) * y / 2)
    for scale in (0.97, 0.94, 0.91, 0.88)
    for x in (0, 1, 2)
    for y in (0, 1, 2)
)
"""(side, left, top) of the parts of one image that are compared with the full other image."""
_LEAST_UNALIGNED = 0.4
"""Of the full thumbnails of two versions of an image: trimming does not change more."""
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
    well-distributed hashes. Where more than `_MOST_IN_BAND` targets have the same band, as of the frames of a film, a
    query is compared with so many of them: their pairs still connect them, but not every pair is found.

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
    rest = np.uint64(64 - _BAND_BITS)
    for band in range(_BANDS):
        own, others = _turned(queries, band * _BAND_BITS), _turned(targets, band * _BAND_BITS)
        order = np.argsort(others, kind="stable")
        others = others[order]
        starts = np.searchsorted((others >> rest).astype(np.int64), np.arange((1 << _BAND_BITS) + 1))
        for mask in masks:
            keys = (own >> rest).astype(np.int64) ^ mask
            begin, counts = starts[keys], starts[keys + 1] - starts[keys]
            crowded = np.flatnonzero(counts > _MOST_IN_BAND)
            if len(crowded):
                nearest = np.searchsorted(others, own[crowded] ^ (np.uint64(mask) << rest)) - _MOST_IN_BAND // 2
                last = begin[crowded] + counts[crowded] - _MOST_IN_BAND
                begin[crowded] = np.clip(nearest, begin[crowded], last)
                counts[crowded] = _MOST_IN_BAND
            for part in _parts(counts):
                left = np.repeat(np.arange(part.start, part.stop), counts[part])
                firsts = np.repeat(begin[part] - np.cumsum(counts[part]) + counts[part], counts[part])
                right = order[firsts + np.arange(len(left))]
                near = np.bitwise_count(queries[left] ^ targets[right]) <= distance
                if near.any():
                    yield left[near], right[near]


def _turned(hashes: np.ndarray, shift: int) -> np.ndarray:
    """Hashes with the band at bit `shift` as their highest bits."""
    import numpy as np

    low = np.uint64((64 - _BAND_BITS - shift) % 64)
    return hashes << low | hashes >> np.uint64(64 - low) if low else hashes


def _parts(counts: np.ndarray) -> Iterator[slice]:
    """The queries in order, in parts of at most `_CHUNK` pairs; parts without any are left out."""
    import numpy as np

    totals = np.cumsum(counts)
    start = 0
    while start < len(counts) and (done := int(totals[start - 1]) if start else 0) < int(totals[-1]):
        stop = max(start + 1, int(np.searchsorted(totals, done + _CHUNK, "right")))
        yield slice(start, stop)
        start = stop


def can_be_same(first: Sequence[bytes], second: Sequence[bytes]) -> np.ndarray:
    """For which of these pairs of thumbnails `same_image` can be true, [n] bool; much faster for many. Of memory it
    takes about 50 KiB a pair: `AT_ONCE` pairs are enough."""
    likely: np.ndarray = _correlations(_as_pixels(first), _as_pixels(second)) >= _LEAST_UNALIGNED
    return likely


def same_image(first: bytes, second: bytes) -> bool:
    """Whether two thumbnails show the same image: trimmed by up to 12 %, compressed, brightened, but not repainted."""
    unaligned = _best([first], second)
    if not _LEAST_UNALIGNED <= unaligned < MIN_CORRELATION:
        return unaligned >= MIN_CORRELATION
    return any(_best(_trimmed(full), other) >= MIN_CORRELATION for full, other in ((first, second), (second, first)))


def mirrored(thumb: bytes) -> bytes:
    """The thumbnail of the mirror image."""
    return Image.frombytes("RGB", (THUMB, THUMB), thumb).transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()


def _trimmed(thumb: bytes) -> list[bytes]:
    """The parts of a thumbnail that remain of it where up to 12 % of the image are trimmed, each as a thumbnail."""
    image = Image.frombytes("RGB", (THUMB, THUMB), thumb)
    boxes = [(THUMB * left, THUMB * top, THUMB * (left + scale), THUMB * (top + scale)) for scale, left, top in _TRIMS]
    return [image.resize((THUMB, THUMB), Image.Resampling.BILINEAR, box).tobytes() for box in boxes]


def _best(candidates: Sequence[bytes], thumb: bytes) -> float:
    """The correlation of a thumbnail with the best-matching candidate."""
    return float(_correlations(_as_pixels(candidates), _as_pixels([thumb])).max())


def _as_pixels(thumbs: Sequence[bytes]) -> np.ndarray:
    """Thumbnails as [n, THUMB * THUMB, 3] float32."""
    import numpy as np

    return np.frombuffer(b"".join(thumbs), np.uint8).reshape(-1, THUMB * THUMB, 3).astype(np.float32)


def _correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of pairs of images, [n, N, 3] float32 each, around their mean colours: [n]; -1 where those differ much."""
    import numpy as np

    means = first.mean(1), second.mean(1)
    shift = means[0] - means[1]
    light = shift.mean(1)
    other = (np.abs(light) > _MAX_LIGHT_SHIFT) | (np.abs(shift - light[:, None]).max(1) > _MAX_TINT_SHIFT)
    first, second = first - means[0][:, None], second - means[1][:, None]
    size = np.sqrt((first**2).sum((1, 2)) * (second**2).sum((1, 2)))
    correlations = (first * second).sum((1, 2)) / np.where(size > 0, size, 1)
    return np.where(other, -1.0, correlations)


class Groups:
    """Groups of items, joined pair by pair (union-find)."""

    def __init__(self, count: int) -> None:
        self._parent = array("q", range(count))

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

    def apart(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """For which of these pairs the items are in different groups, [n] bool."""
        import numpy as np

        roots = np.frombuffer(self._parent, np.int64)
        while not np.array_equal(roots, higher := roots[roots]):
            roots = higher
        apart: np.ndarray = roots[left] != roots[right]
        return apart

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
