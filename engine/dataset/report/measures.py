"""What is taken from one picture, once: everything that the checks need, some kilobytes whatever its size."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from engine.dataset.decoding import UnusablePicture, decode, read_header, read_lens
from engine.dataset.pixels import flatten
from engine.dataset.report import borders, likeness, quality, watermarks

VERSION = 2
"""Raised when anything is measured differently: what is on the shelf is then not used."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one picture."""

    mode: str
    """Pillow's name of the kind of samples."""
    orientation: int
    """EXIF's."""
    lens: str
    """EXIF's LensModel."""
    pixels: str
    """Hash of the upright picture's size and pixels, transparency included."""
    hashes: tuple[int, ...]
    """See `likeness.hashes_of`."""
    transparent: float
    """Share of pixels that can be seen through."""
    invisible: bool
    """Every pixel is wholly transparent."""
    blur: float
    exposure: tuple[int, int, int, float, bool]
    margins: tuple[int, int, int, int]
    """Bars (left, top, right, bottom), px of the picture."""

    def as_text(self) -> str:
        """For the shelf."""
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
class Taken:
    """All that is taken from a picture, or why nothing can be."""

    measures: Measures | None
    thumb: bytes = b""
    """RGB, see `likeness.thumb_of`."""
    marks: bytes = b""
    """See `watermarks.marks_of`."""
    reason: str = ""


def measure(path: Path, side: int, background: str, max_megapixels: int, *, turn: bool = True) -> Taken:
    """Decode a picture and take its measures.

    Args:
        side: the picture is judged at an area of side x side px, at which it will be trained; never enlarged.
        background: "#rrggbb", under transparent parts.
        max_megapixels: larger ones are refused, as in a run.
        turn: whether EXIF's orientation counts.
    """
    import numpy as np

    try:
        header = read_header(path, max_megapixels, turn=turn)
        lens = read_lens(path)
        image = decode(path, (header.width, header.height), turn=turn)
    except UnusablePicture as error:
        return Taken(None, reason=str(error))
    picture, alpha = flatten(image, background)
    digest = hashlib.blake2b(f"{picture.size}".encode(), digest_size=16)
    digest.update(picture.tobytes())
    seen_through = 0.0
    if alpha is not None:
        seen_through = 1 - alpha.histogram()[255] / (alpha.width * alpha.height)
        if seen_through:
            digest.update(alpha.tobytes())
    small, scale = _reduced(picture, side)
    margins = borders.margins_of(np.asarray(small))
    content = _inside(small, margins)
    grey = content.convert("L")
    bars = tuple(math.ceil(margin * scale) for margin in margins)
    left, top, right, bottom = bars
    return Taken(
        Measures(
            mode=header.mode,
            orientation=header.orientation,
            lens=lens,
            pixels=digest.hexdigest(),
            hashes=likeness.hashes_of(grey),
            transparent=seen_through,
            invisible=alpha is not None and alpha.getextrema()[1] == 0,
            blur=quality.blur_of(np.asarray(grey).astype(np.float32)),
            exposure=quality.exposure_of(grey),
            margins=(left, top, right, bottom),
        ),
        thumb=likeness.thumb_of(content),
        marks=watermarks.marks_of(_inside(picture, (left, top, right, bottom)), grey),
    )


def _reduced(picture: Image.Image, side: int) -> tuple[Image.Image, float]:
    """The picture with an area of at most side x side px, and how many of its pixels one of these is."""
    scale = math.sqrt(picture.width * picture.height) / side
    if scale <= 1:
        return picture, 1.0
    size = max(1, round(picture.width / scale)), max(1, round(picture.height / scale))
    return picture.resize(size, Image.Resampling.BOX), scale


def _inside(picture: Image.Image, margins: tuple[int, int, int, int]) -> Image.Image:
    """Without its bars: a picture is compared and judged without them."""
    left, top, right, bottom = margins
    if not any(margins):
        return picture
    return picture.crop((left, top, picture.width - right, picture.height - bottom))
