"""Atomic writes: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine import reading
from engine.errors import StorageError, storage_error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed over `path`.

    Raises:
        StorageError: when the device is full or may not be written; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # a link that lies there would be written through
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        refused = isinstance(error, FileNotFoundError) and str(error.filename) == str(temporary)
        if refused and path.parent.is_dir():
            sentence = f"Writing {path} failed: that folder takes no files."
            raise StorageError(sentence, "Choose another place.") from error
        raise storage_error(error, path, "Writing") or error from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make a rename inside `directory` durable; file systems that cannot are left alone."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    write_bytes(path, text.encode())


def read_json(path: Path) -> Any | None:
    """The JSON value in `path`; None when it is missing, no regular file, not JSON, or beyond `reading`'s limits."""
    try:
        return reading.read_json(path)
    except (OSError, ValueError):
        return None


def require_space(directory: Path, needed: int, what: str, usage: Callable[[Path], Any] = shutil.disk_usage) -> None:
    """Refuse to begin a write that cannot end.

    Args:
        directory: an existing directory on the file system written to.
        needed: bytes about to be written.
        what: what they are, for the sentence.

    Raises:
        StorageError: when fewer than `needed` bytes are free.
    """
    free = usage(directory).free
    if free < needed:
        raise StorageError(
            f"Not enough space in {directory}: {what} needs {needed / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free.",
            "Free some space there, or choose another --output_dir.",
        )
