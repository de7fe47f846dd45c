"""Automatic choice of validation images from the training images: few, spread, and the same in every run."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence

from engine.dataset.images import ImageInfo

FEWEST_IMAGES = 20
"""With fewer images all are trained on."""
FEWEST, MOST = 2, 4
"""Number of validation images; a tenth of the images in between."""
_ALIKE = 0.8
"""Share of common words above which two captions count as the same."""


def choose(images: Sequence[ImageInfo], seed: int) -> list[ImageInfo]:
    """The validation images, in input order; none below `FEWEST_IMAGES`.

    Each group of similar aspect ratios contributes in proportion to its size and keeps one image; images whose caption
    repeats that of a chosen one come last. The choice depends only on path order, sizes, captions and seed, and must
    not change between versions: a resumed run needs the same images. Fewer are chosen if nearly every image has its
    own aspect ratio.
    """
    if len(images) < FEWEST_IMAGES:
        return []
    number = min(MOST, max(FEWEST, round(len(images) / 10)))
    shuffled = sorted(images, key=lambda image: str(image.path))
    random.Random(f"validation {seed}").shuffle(shuffled)
    groups: dict[int, list[ImageInfo]] = {}
    for image in shuffled:
        groups.setdefault(round(4 * math.log2(image.width / image.height)), []).append(image)
    chosen: list[ImageInfo] = []
    for group, share in zip(groups.values(), _shares([len(group) for group in groups.values()], number), strict=True):
        for _ in range(share):
            left = [image for image in group if image not in chosen]
            chosen.append(next((image for image in left if not _repeats(image, chosen)), left[0]))
    return [image for image in images if image in chosen]


def _shares(sizes: Sequence[int], number: int) -> list[int]:
    """Images from each group: in proportion to its size, largest remainders first, always keeping one."""
    total = sum(sizes)
    shares = [0] * len(sizes)
    for _ in range(min(number, total - len(sizes))):
        eligible = [index for index, size in enumerate(sizes) if shares[index] < size - 1]
        shares[max(eligible, key=lambda index: number * sizes[index] / total - shares[index])] += 1
    return shares


def _repeats(image: ImageInfo, chosen: Sequence[ImageInfo]) -> bool:
    """Whether its caption has nearly the words of a chosen image's caption."""
    words = _words(image)
    return any(words and len(words & other) > _ALIKE * len(words | other) for other in map(_words, chosen))


def _words(image: ImageInfo) -> set[str]:
    return set(re.findall(r"\w+", (image.caption or "").lower()))
