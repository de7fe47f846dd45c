"""The measures of one image: everything that the checks need, a few kilobytes at any image size."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

VERSION = 2
"""Increased when any measure changes: older cache entries are then ignored."""


@dataclass(frozen=True, slots=True)
class Measures:
    """The measures of one image."""

    mode: str
    """Pillow's mode."""
    orientation: int
    """The EXIF orientation."""
    lens: str
    """EXIF's LensModel."""
    pixels: str
    """Hash of the upright image's size and pixels, including transparency."""
    hashes: tuple[int, ...]
    """From `likeness.hashes_of`."""
    transparent: float
    """Share of transparent pixels."""
    invisible: bool
    """Whether every pixel is fully transparent."""
    blur: float
    exposure: tuple[int, int, int, float, bool]
    margins: tuple[int, int, int, int]
    """Bars (left, top, right, bottom), px of the image."""

    def as_text(self) -> str:
        """The measures as JSON, for the cache."""
        return json.dumps(asdict(self))

    @classmethod
    def restored(cls, text: str) -> Measures:
        """From `as_text`."""
        stored: dict[str, Any] = json.loads(text)
        values: dict[str, Any] = {}
        for key, value in stored.items():
            values[key] = tuple(value) if isinstance(value, list) else value
        return cls(**values)


@dataclass(frozen=True, slots=True)
class MeasureResult:
    """The measures of an image with its thumbnail and map, or the reason why there are none."""

    measures: Measures | None
    thumb: bytes = b""
    """From `likeness.thumb_of`."""
    marks: bytes = b""
    """From `watermarks.marks_of`."""
    reason: str = ""
