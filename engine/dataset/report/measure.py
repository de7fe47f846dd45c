"""Measuring one image."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from PIL import Image

from engine.dataset.decoding import UnusableImage, decode, read_header, read_lens
from engine.dataset.pixels import flatten
from engine.dataset.report import borders, likeness, quality, watermarks
from engine.dataset.report.measures import MeasureResult, Measures


def measure(path: Path, side: int, background: str, max_megapixels: int, *, turn: bool = True) -> MeasureResult:
    """Decode and measure an image.

    Args:
        side: the image is measured at its training area of side x side px; never enlarged.
        background: "#rrggbb", under transparent parts.
        max_megapixels: larger images are refused, as in a run.
        turn: apply the EXIF orientation.
    """
    import numpy as np

    try:
        header = read_header(path, max_megapixels, turn=turn)
        lens = read_lens(path)
        decoded = decode(path, (header.width, header.height), turn=turn)
    except UnusableImage as error:
        return MeasureResult(None, reason=str(error))
    flat, alpha = flatten(decoded, background)
    digest = hashlib.blake2b(f"{flat.size}".encode(), digest_size=16)
    digest.update(flat.tobytes())
    transparent = 0.0
    if alpha is not None:
        transparent = 1 - alpha.histogram()[255] / (alpha.width * alpha.height)
        if transparent:
            digest.update(alpha.tobytes())
    small, scale = _reduced(flat, side)
    margins = borders.margins_of(np.asarray(small))
    content = _inside(small, margins)
    grey = content.convert("L")
    bars = tuple(math.ceil(margin * scale) for margin in margins)
    left, top, right, bottom = bars
    return MeasureResult(
        Measures(
            mode=header.mode,
            orientation=header.orientation,
            lens=lens,
            pixels=digest.hexdigest(),
            hashes=likeness.hashes_of(grey),
            transparent=transparent,
            invisible=alpha is not None and alpha.getextrema()[1] == 0,
            blur=quality.blur_of(np.asarray(grey).astype(np.float32)),
            exposure=quality.exposure_of(grey),
            margins=(left, top, right, bottom),
        ),
        thumb=likeness.thumb_of(content),
        marks=watermarks.marks_of(_inside(flat, (left, top, right, bottom)), grey),
    )


def _reduced(image: Image.Image, side: int) -> tuple[Image.Image, float]:
    """The image scaled to an area of at most side x side px, and the scale factor."""
    scale = math.sqrt(image.width * image.height) / side
    if scale <= 1:
        return image, 1.0
    size = max(1, round(image.width / scale)), max(1, round(image.height / scale))
    return image.resize(size, Image.Resampling.BOX), scale


def _inside(image: Image.Image, margins: tuple[int, int, int, int]) -> Image.Image:
    """The image without its bars, for comparing and measuring."""
    left, top, right, bottom = margins
    if not any(margins):
        return image
    return image.crop((left, top, image.width - right, image.height - bottom))
