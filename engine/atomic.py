"""Atomic writes: a reader sees the old file or the new one, never a part of it.

A killed process leaves its temporary file. The name contains the process and the machine; the next write into that
folder removes it.
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
"""Names of earlier versions, without the machine."""
_ELSEWHERE_SECONDS = 3600
"""Age at which a temporary file of another machine counts as abandoned: no write takes that long."""
_CLOCK_SECONDS = 10
"""How much the clocks of a file system and of this machine may differ."""
_swept: set[Path] = set()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it is synced and renamed over `path`.

    Raises:
        StorageError: the device is full or not writable; `path` is then unchanged.
    """
    if path.parent not in _swept:
        _swept.add(path.parent)
        sweep(path.parent)
    temporary = _temporary(path)
    try:
        with storing(path):
            temporary.unlink(missing_ok=True)  # a link there would be followed
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_directory(path.parent)
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError) and str(cause.filename) == str(temporary) and path.parent.is_dir():
            sentence = f"Writing {path} failed: no file can be created in that folder."
            raise StorageError(sentence, "Choose another place.", code="folder-takes-no-files") from cause
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@cache
def machine_tag() -> str:
    """A short name of this machine for names of files."""
    return f"{zlib.crc32(os.fsencode(socket.gethostname())):08x}"


def _temporary(path: Path) -> Path:
    name, tail = path.name, f".{os.getpid()}-{machine_tag()}.tmp"
    if len(os.fsencode(name)) + len(tail) + 1 > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}{tail}")


def sweep(directory: Path, *, older: bool = False, shared: bool = False) -> int:
    """Remove the temporary files in `directory` whose processes are dead; returns their number.

    Args:
        older: also those with the names of earlier versions. Only for folders that hold nothing but our files: another
            program may use such names.
        shared: other machines write here too, so a name without the machine may be theirs.
    """
    removed = 0
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name) or (_OLDER.fullmatch(entry.name) if older else None)
            if match is None:
                continue
            with suppress(OSError):
                written = entry.stat(follow_symlinks=False).st_mtime
                pid, machine = int(match[1]), match[2] if match.re is _TEMPORARY else "?" if shared else machine_tag()
                if entry.is_file(follow_symlinks=False) and _is_abandoned(written, pid, machine):
                    Path(entry.path).unlink()
                    removed += 1
    return removed


def _is_abandoned(written: float, pid: int, machine: str) -> bool:
    if machine != machine_tag():
        return time.time() - written > _ELSEWHERE_SECONDS
    start = started_at(pid)
    return start is None or start > written + _CLOCK_SECONDS  # another process has this id now


def sync_directory(directory: Path) -> None:
    """Make a rename inside `directory` durable, where the file system can."""
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
    """The JSON value in `path`; None when missing, not a regular file, not JSON, or beyond the limits of `reading`."""
    try:
        return reading.read_json(path)
    except (OSError, ValueError):
        return None


def require_space(directory: Path, needed: int, what: str, usage: Callable[[Path], Any] = shutil.disk_usage) -> None:
    """Refuse a write for which there is not enough space.

    Args:
        directory: an existing directory on the file system written to.
        needed: bytes about to be written.
        what: what they are, for the message.

    Raises:
        StorageError: when fewer than `needed` bytes are free.
    """
    with storing(directory):
        free = usage(directory).free
    if free < needed:
        raise StorageError(
            f"Not enough space in {directory}: {what} needs {needed / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free.",
            "Free some space there, or choose another --output_dir.",
            code="disk-full",
        )
