"""`face_crop_aug_range`: crops around a face whose place is in the file's name (facts: sd-scripts `crop_target`)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config.dataset import DatasetTable
from engine.dataset.buckets import Placement, Size

_NUMBERS = 4
_FEWEST_PARTS = 5
"""The name itself, and the four numbers."""
_SMALLEST = 40
"""Pixels of a face below which the crop does not move at random."""


@dataclass(frozen=True)
class Face:
    """A face in an image, in pixels of the file."""

    x: int
    """Of its centre, like `y`."""
    y: int
    size: int
    """Its larger side."""


def face_of(path: Path, table: DatasetTable) -> Face | None:
    """The face that an image is cropped around: from its name, `<name>_<x>_<y>_<width>_<height>`, as Kohya's
    `detect_face_rotate.py` writes it; None without one, with buckets, and where the settings have no range."""
    if not table.crops_faces:
        return None
    parts = path.stem.split("_")
    numbers = parts[-_NUMBERS:]
    if len(parts) < _FEWEST_PARTS or not all(number.isascii() and number.isdecimal() for number in numbers):
        return None
    x, y, width, height = map(int, numbers)
    return Face(x, y, max(width, height)) if x > 0 and max(width, height) > 0 else None


def place_face(
    image: Size, bucket: Size, face: Face, sizes: Sequence[float], rng: random.Random, *, random_crop: bool
) -> Placement:
    """The placement of an image in one crop around its face.

    It is scaled so that the crop's shorter side is between `sizes[0]` and `sizes[1]` times the face, never enlarged
    unless it is smaller than the crop, and cropped with the face in the middle, as far as the image reaches.

    Args:
        random_crop: the face may be anywhere in the crop, more often in the middle. Without it the crop moves by up
            to a twentieth of the face, if the range is one and the face not tiny.
    """
    if image == bucket:
        return Placement(bucket, image, (0, 0))
    cover = max(bucket[0] / image[0], bucket[1] / image[1])
    smallest, largest = (min(1.0, max(cover, min(bucket) / (face.size * factor))) for factor in reversed(sizes))
    scale = max(cover, rng.uniform(smallest, largest) if smallest < largest else smallest)
    resized = (int(image[0] * scale + 0.5), int(image[1] * scale + 0.5))
    moves = sizes[0] != sizes[1] and face.size > min(bucket) // 10 and face.size >= _SMALLEST
    left, top = 0, 0
    for axis in (1, 0):  # in Kohya's order: top first
        centre = int((face.x, face.y)[axis] * scale + 0.5)
        start = centre - bucket[axis] // 2
        if random_crop:
            reach = max(resized[axis] - centre, centre)
            start += rng.randint(0, reach) + rng.randint(0, reach) - reach
        elif moves:
            start += rng.randint(-face.size // 20, face.size // 20)
        start = max(0, min(start, resized[axis] - bucket[axis]))
        left, top = (left, start) if axis else (start, top)
    return Placement(bucket, resized, (left, top))
