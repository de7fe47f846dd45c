"""A list of images known to decode, by content, in the cache folder: each is checked only once."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path

from engine.atomic import write_bytes
from engine.dataset.digests import FileDigests
from engine.dataset.images import ImageInfo
from engine.errors import StorageError
from engine.reading import open_file

FILE_NAME = "checked-images.txt"
MOST = 500_000
"""Entries; the oldest are dropped first. 65 bytes each."""
_LINE = re.compile(rb"^[0-9a-f]{64}$", re.MULTILINE)


class CheckedImages:
    """Images that decoded without an error, in this run or an earlier one. Thread-safe.

    Losing it only costs time: damaged lines and write errors are ignored.

    Args:
        directory: of the cache; may be missing.
        digests: of files.
    """

    def __init__(self, directory: Path, digests: FileDigests) -> None:
        self._path = directory / FILE_NAME
        self._digests = digests
        self._stored = self._read()
        self._new: dict[bytes, None] = {}

    def key(self, image: ImageInfo) -> bytes | None:
        """See `content_key`."""
        return content_key(self._digests, image)

    def __contains__(self, key: bytes | None) -> bool:
        return key in self._stored or key in self._new

    def add(self, key: bytes) -> None:
        """Record that this content decodes; `save` writes it to disk."""
        self._new[key] = None

    def save(self) -> None:
        """Write new entries, together with those other runs have written meanwhile."""
        if not self._new:
            return
        lines = list({**self._read(), **self._new})[-MOST:]
        with suppress(OSError, StorageError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self._path, b"\n".join(lines) + b"\n")

    def _read(self) -> dict[bytes, None]:
        with suppress(OSError), open_file(self._path) as file:
            return dict.fromkeys(_LINE.findall(file.read(MOST * 65)))
        return {}


def content_key(digests: FileDigests, image: ImageInfo) -> bytes | None:
    """A key for the image's content and how it is decoded; None if the file cannot be read."""
    try:
        content = digests.of(image.path)
    except OSError:
        return None
    text = f"{content} {image.width} {image.height} {not image.kohya_exact}"
    return hashlib.sha256(text.encode()).hexdigest().encode()
