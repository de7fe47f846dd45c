"""Images inside a page: decoded, reduced, encoded again as WebP and put into a data URL, within a budget of bytes.

Only pixels get into the page: no metadata, and no bytes that a browser might interpret as something else.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from engine.dataset.decoding import UnusableImage, opened
from engine.dataset.pixels import flatten
from engine.html_page.page import EmbeddedImage, data_url

MOST_BYTES = 16 * 2**20
"""Of all images of a page together, as WebP; base64 adds a third."""
MOST_PIXELS = 2**26
"""Of a file; a run's samples have far fewer."""
SMALL = 160
"""Images up to this side are kept as they are, without loss."""
_LADDER = ((768, 82), (512, 80), (384, 74), (256, 70), (160, 60), (96, 50))
"""(longest side in px, WebP quality), tried until an image fits into its share."""


@dataclass
class Embedder:
    """Turns files into data URLs; None for an image that is over the budget, missing or broken.

    Args:
        expected: the number of images to come: each has an equal share of `budget`.
    """

    expected: int
    budget: int = MOST_BYTES
    bytes: int = 0
    """Used so far."""
    broken: int = 0
    """Files that cannot be read as images."""
    left_out: int = 0
    """Images that did not fit."""
    _cache: dict[Path, EmbeddedImage | None] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Images in the page."""
        return sum(image is not None for image in self._cache.values())

    def embed(self, path: Path | None) -> EmbeddedImage | None:
        """The image in `path`; each file is encoded once."""
        if path is None:
            return None
        if path not in self._cache:
            self._cache[path] = self._embed(path)
        return self._cache[path]

    def _embed(self, path: Path) -> EmbeddedImage | None:
        share = max(512, self.budget // max(1, self.expected))
        if self.bytes + 512 > self.budget:
            self.left_out += 1
            return None
        try:
            image = _decoded(path)
        except UnusableImage:
            self.broken += 1
            return None
        data, embedded = _fitting(image, min(share, self.budget - self.bytes))
        if data is None:
            self.left_out += 1
            return None
        self.bytes += len(data)
        return EmbeddedImage(data_url("webp", data), *embedded.size, small=max(embedded.size) <= SMALL)


def _decoded(path: Path) -> Image.Image:
    """RGB, at most as large as the first rung of the ladder."""
    with opened(path, MOST_PIXELS) as (_, image):
        side = _LADDER[0][0]
        image.draft("RGB", (side, side))
        flat = flatten(image, "#ffffff")[0]
    flat.thumbnail((side, side), Image.Resampling.LANCZOS)
    return flat


def _fitting(image: Image.Image, limit: int) -> tuple[bytes | None, Image.Image]:
    """The first encoding of at most `limit` bytes."""
    if max(image.size) <= SMALL and len(data := _encoded(image, lossless=True)) <= limit:
        return data, image
    for side, quality in _LADDER:
        smaller = image
        if max(image.size) > side:
            smaller = image.copy()
            smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = _encoded(smaller, quality=quality)
        if len(data) <= limit:
            return data, smaller
    return None, image


def _encoded(image: Image.Image, *, quality: int = 80, lossless: bool = False) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, lossless=lossless, method=4)
    return buffer.getvalue()


def pick_evenly(steps: Sequence[int], limit: int, required: Sequence[int | None] = ()) -> list[int]:
    """At most `limit` of `steps` (in order), evenly spaced, including the first, the last and the `required` ones."""
    if len(steps) <= limit:
        return list(steps)
    kept = {step for step in (steps[0], steps[-1], *required) if step in set(steps)}
    rest = [step for step in steps if step not in kept]
    places = max(0, limit - len(kept))
    return sorted(kept | {rest[int((place + 0.5) * len(rest) / places)] for place in range(places)})
