"""Images that were decoded to find damage, kept at their training size until they are encoded: decoded only once."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from PIL import Image

from engine.config.dataset import DatasetTable
from engine.dataset.buckets import Placement
from engine.dataset.decoding import UnusableImage
from engine.dataset.images import ImageInfo
from engine.dataset.items import Item
from engine.dataset.pixels import fit

MOST_BYTES = 512 * 2**20
"""In the host's memory: 128 images of 1024×1024, 512 of 512×512."""
Fitted = tuple[Image.Image, Image.Image | None]
"""Colours and loss weights, as `engine.dataset.pixels.fit` gives them."""
Decoded = tuple[Placement, DatasetTable, Fitted]
_Key = tuple[bytes, Placement, tuple[object, ...]]


class FittedImages:
    """Keeps images at their training size, up to a number of bytes. Thread-safe.

    Args:
        table: of `[dataset]`, for items without their own settings.
        most_bytes: further images are not kept.
    """

    def __init__(self, table: DatasetTable, most_bytes: int = MOST_BYTES) -> None:
        self._table = table
        self._free = most_bytes
        self._wanted: dict[ImageInfo, tuple[Placement, DatasetTable]] = {}
        self._kept: dict[_Key, Fitted] = {}
        self._lock = threading.Lock()

    def want(self, items: Iterable[Item]) -> None:
        """Choose the items whose images are to be kept. An image in several sizes is kept in the first one; one with a
        mask file is not kept, since errors of masks have their own place."""
        for item in items:
            if item.image.mask_path is None:
                self._wanted.setdefault(item.image, (item.placement, item.table or self._table))

    def decode(self, image: ImageInfo) -> Decoded | None:
        """Decode and scale an image that was chosen; None if it was not, there is no more room, or it is broken."""
        if image not in self._wanted:
            return None
        placement, table = self._wanted[image]
        size = 4 * placement.bucket[0] * placement.bucket[1]  # Pillow has 4 bytes for a pixel of RGB
        with self._lock:
            if self._free < size:
                return None
            self._free -= size
        try:
            return placement, table, fit(image, placement, table)
        except UnusableImage:
            return None

    def keep(self, key: bytes, decoded: Decoded) -> None:
        """Keep a result of `decode`.

        Args:
            key: `content_key` of the image, the same before and after it was decoded.
        """
        placement, table, fitted = decoded
        self._kept[_key(key, placement, table)] = fitted

    def get(self, key: bytes, placement: Placement, table: DatasetTable) -> Fitted | None:
        """What was kept of an image with this content for this placement and these settings."""
        return self._kept.get(_key(key, placement, table))

    def free(self) -> None:
        """Forget all of them; nothing is kept from here on."""
        self._wanted.clear()
        self._kept.clear()


def _key(key: bytes, placement: Placement, table: DatasetTable) -> _Key:
    return key, placement, (table.resize_interpolation, table.alpha_background, table.alpha_mask)
