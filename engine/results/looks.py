"""The look of an image as numbers: colour, contrast, fine detail, and a perceptual hash. Loads no torch.

docs/results.md has the formulas. Images are first scaled to the same size, so that samples and photographs compare.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.results.measures import BURN

if TYPE_CHECKING:
    from PIL import Image

SIDE = 256
"""Pixels of the longer side at which images are measured; smaller ones stay as they are."""
BLOCK = 8
"""Pixels of a side of the squares in which local contrast is measured."""


@dataclass(frozen=True)
class Look:
    """One image."""

    saturation: float
    """Mean of (max - min) / max of red, green and blue, 0 to 1."""
    clipped: float
    """Share of the values that are at most 2 or at least 253 of 255."""
    contrast: float
    """Mean standard deviation of the luminance in squares of `BLOCK` pixels, 0 to 1."""
    detail: float
    """Mean absolute Laplacian of the luminance: energy of the highest frequencies, 0 to 4."""
    hashes: tuple[int, int]
    """64-bit perceptual hashes (ImageHash's phash) of the image and of its mirror image."""


def look_at(image: Image.Image) -> Look:
    """Measure an image of any mode."""
    import imagehash
    import numpy as np
    from PIL import ImageOps

    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    small = small.resize((max(BLOCK, small.width), max(BLOCK, small.height)))
    pixels = np.asarray(small, dtype=np.float32) / 255
    highest, lowest = pixels.max(axis=2), pixels.min(axis=2)
    light = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    laplacian = 4 * light[1:-1, 1:-1] - light[:-2, 1:-1] - light[2:, 1:-1] - light[1:-1, :-2] - light[1:-1, 2:]
    hashes = (str(imagehash.phash(version)) for version in (small, ImageOps.mirror(small)))
    first, second = (int(digits, 16) for digits in hashes)
    return Look(
        saturation=float(((highest - lowest) / np.maximum(highest, 1 / 255)).mean()),
        clipped=float(((pixels <= 2 / 255) | (pixels >= 253 / 255)).mean()),
        contrast=float(_blocks(light).std(axis=(1, 3)).mean()),
        detail=float(np.abs(laplacian).mean()),
        hashes=(first, second),
    )


def _blocks(light: Any) -> Any:
    """[rows, BLOCK, columns, BLOCK] squares of a luminance [height, width]; a remainder at the edges is left out."""
    rows, columns = (side // BLOCK for side in light.shape)
    return light[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)


def burn(samples: Sequence[Look], base: Sequence[Look], training: Sequence[Look]) -> dict[str, float]:
    """How far the samples are outside the range of the base model's samples and the training images.

    For each of `BURN` the mean over the samples, divided by the nearest bound of the range that the means of base and
    training images span: 1 inside that range, 2 at twice its upper end. Empty without samples or references.
    """
    references = [looks for looks in (base, training) if looks]
    if not samples or not references:
        return {}
    ratios = {}
    for name in BURN:
        value = _mean(samples, name)
        means = [_mean(looks, name) for looks in references]
        low, high = min(means), max(means)
        bound = low if value < low else high if value > high else value
        ratios[name] = (value + FLOOR) / (bound + FLOOR)
    return ratios


FLOOR = 0.01
"""Added to both sides of a ratio of `burn`, so that a reference near 0 does not amplify noise."""


def _mean(looks: Sequence[Look], name: str) -> float:
    return statistics.fmean(getattr(look, name) for look in looks)


def distance(look: Look, other: Look) -> int:
    """Bits in which the perceptual hashes of two images differ, the second mirrored or not: 0 to 64."""
    return min((look.hashes[0] ^ hashed).bit_count() for hashed in other.hashes)


def copying(samples: Sequence[Look], training: Mapping[str, Look]) -> tuple[float, str] | None:
    """The highest likeness of a sample to a training image, and that image's name.

    1 - d / D: d is the distance of a sample to its nearest training image, D the usual distance of a training image to
    its nearest other one (the median; versions of one image, within `SAME` bits, count as one). At least 0. None if
    fewer than two training images differ.
    """
    usual = _usual_distance(different(list(training.values())))
    if usual is None or not samples:
        return None
    pairs = [(distance(sample, look), name) for sample in samples for name, look in training.items()]
    nearest, name = min(pairs)
    return max(0.0, 1 - nearest / usual), name


SAME = 6
"""Bits within which two images are versions of one."""


def different(looks: Sequence[Look]) -> list[Look]:
    """The first of each group of versions of one image, mirrored or not."""
    firsts: list[Look] = []
    for look in looks:
        if all(distance(look, first) > SAME for first in firsts):
            firsts.append(look)
    return firsts


def _usual_distance(looks: Sequence[Look]) -> float | None:
    if len(looks) < 2:
        return None
    return statistics.median(min(distance(look, other) for other in looks if other is not look) for look in looks)
