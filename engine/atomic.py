"""Atomic writes: a reader sees the old file or the new one, never half of one.

A process that is killed leaves its temporary file. Its name tells which process wrote it, on which machine; whoever
writes into that folder next removes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from engine import reading
from engine.errors import StorageError, storing
from engine.processes import started_at

_LONGEST = 255
"""Bytes of a file name."""
_TEMPORARY = re.compile(r"\..+\.(\d{1,10})-([0-9a-f]{8})\.tmp", re.DOTALL)
_OLDER = re.compile(r"\..+\.(?:safetensors|json|toml|png)\.(\d{1,10})\.tmp", re.DOTALL)
"""How earlier versions named theirs: without the machine."""
_ELSEWHERE_SECONDS = 3600
"""Age at which a temporary file of another machine is taken for abandoned: no write takes that long."""
_CLOCK_SECONDS = 10
"""By so much the clocks of a file system and of this machine may differ."""
_swept: set[Path] = set()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed over `path`.

    Raises:
        StorageError: when the device is full or may not be written; `path` is then as it was.
    """
    if path.parent not in _swept:
        _swept.add(path.parent)
        sweep(path.parent)
    temporary = _temporary(path)
    try:
        with storing(path):
            temporary.unlink(missing_ok=True)  # a link that lies there would be written through
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_directory(path.parent)
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError) and str(cause.filename) == str(temporary) and path.parent.is_dir():
            sentence = f"Writing {path} failed: that folder takes no files."
            raise StorageError(sentence, "Choose another place.") from cause
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@cache
def _here() -> str:
    return f"{zlib.crc32(os.fsencode(socket.gethostname())):08x}"


def _temporary(path: Path) -> Path:
    name, tail = path.name, f".{os.getpid()}-{_here()}.tmp"
    if len(os.fsencode(name)) + len(tail) + 1 > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}{tail}")


def sweep(directory: Path, *, older: bool = False, shared: bool = False) -> int:
    """Remove the temporary files in `directory` whose processes are dead; how many there were.

    Args:
        older: also those under the names that earlier versions gave them. For folders that hold nothing but our files:
            another program could name its own so.
        shared: other machines write here too, and a name without the machine may be theirs.
    """
    removed = 0
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name) or (_OLDER.fullmatch(entry.name) if older else None)
            if match is None:
                continue
            with suppress(OSError):
                written = entry.stat(follow_symlinks=False).st_mtime
                pid, machine = int(match[1]), match[2] if match.re is _TEMPORARY else "?" if shared else _here()
                if entry.is_file(follow_symlinks=False) and _is_abandoned(written, pid, machine):
                    Path(entry.path).unlink()
                    removed += 1
    return removed


def _is_abandoned(written: float, pid: int, machine: str) -> bool:
    if machine != _here():
        return time.time() - written > _ELSEWHERE_SECONDS
    start = started_at(pid)
    return start is None or start > written + _CLOCK_SECONDS  # another process has got the number since


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
    with storing(directory):
        free = usage(directory).free
    if free < needed:
        raise StorageError(
            f"Not enough space in {directory}: {what} needs {needed / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free.",
            "Free some space there, or choose another --output_dir.",
        )
