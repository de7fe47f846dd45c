"""`saving.metadata_thumbnail`: an image in the LoRA's metadata. Only its pixels are used.

Presets may be untrusted and LoRA files are published: anything but an image is refused, and the image is decoded,
shrunk and encoded again, without EXIF, colour profile or other metadata.
"""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path

from PIL import Image, ImageOps

from engine.dataset.decoding import SMALLEST_SIDE
from engine.dataset.pixels import flatten
from engine.errors import UsageError
from engine.reading import read_bytes
from engine.text import printable

LONGEST_SIDE = 512
"""Pixels of the embedded image."""
MOST_BYTES = 64 * 2**20
"""Of the source file."""
MOST_PIXELS = 100_000_000
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_KEY = "saving.metadata_thumbnail"
_HINT = "Name a small PNG, JPEG or WebP image, or unset it."


def thumbnail(value: str) -> str:
    """The image of `value` (a path or a data URL) as a data URL: RGB JPEG, at most `LONGEST_SIDE` px.

    Raises:
        UsageError: it does not exist, cannot be read, or is not an image.
    """
    name = "the data URL" if value.startswith("data:") else printable(value)
    try:
        data = _content(value)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS or min(opened.size) < SMALLEST_SIDE:
                raise UsageError(
                    f"{_KEY}: {name} has {opened.width}×{opened.height} pixels.", _HINT, code="thumbnail-not-possible"
                )
            opened.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
            flat = flatten(ImageOps.exif_transpose(opened), "#ffffff")[0]
    except UsageError:
        raise
    except OSError as error:
        reason = error.strerror or "it is not an image"  # Pillow's own errors have no strerror
        raise UsageError(f"{_KEY}: {name} cannot be used: {reason}.", _HINT, code="thumbnail-not-possible") from error
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        raise UsageError(
            f"{_KEY}: {name} is not an image that can be read.", _HINT, code="thumbnail-not-possible"
        ) from error
    flat.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _content(value: str) -> bytes:
    """The bytes of the image.

    Raises:
        OSError: as `engine.reading.read_bytes`.
        UsageError: another kind of data URL.
    """
    if not value.startswith("data:"):
        return read_bytes(Path(value).expanduser(), MOST_BYTES)
    head, comma, text = value.partition(",")
    try:
        if not (comma and head.startswith("data:image/") and head.endswith(";base64")):
            raise ValueError("another kind")
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise UsageError(
            f"{_KEY}: the data URL is not an image in base64.", _HINT, code="thumbnail-not-possible"
        ) from None
