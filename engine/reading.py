"""Reading what a person, a folder, a run directory or another program gives: regular files only, and within limits.

A named pipe or a device under a file's name would block or never end; JSON and TOML nested a thousand levels deep, or
with numbers that no computer format holds, would break whoever uses the value later. All of that ends here, as an
`OSError` whose `strerror` says why, or as a `ValueError`; callers put either into their own sentence.
"""

from __future__ import annotations

import codecs
import errno
import json
import math
import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

MAX_DEPTH = 100
"""Levels of lists and tables inside each other."""
MAX_TEXT = 16 * 2**20
"""Bytes of a configuration, a record or a header: a JSON text of this size needs at most about 400 MiB when read."""
MAX_INT = 2**64
"""Numbers from here on fit no format that a file may mean."""
SAVE_AS_UTF8 = "Save it as UTF-8 text. In Notepad: File, Save as, Encoding: UTF-8."
_KINDS = (
    (stat.S_ISDIR, "it is a folder"),
    (stat.S_ISFIFO, "it is a named pipe, not a regular file"),
    (stat.S_ISSOCK, "it is a socket, not a regular file"),
    (stat.S_ISCHR, "it is a device, not a regular file"),
    (stat.S_ISBLK, "it is a device, not a regular file"),
)


class NotRegularFileError(OSError):
    """A folder, named pipe, socket, device, or a link where none may be."""


class TooLargeError(OSError):
    """More bytes than a file of its kind can have."""


def open_file(path: Path, *, below: Path | None = None) -> BinaryIO:
    """Open a regular file for reading, without ever waiting for one that is none.

    Args:
        below: a folder whose content is not trusted, such as a run directory: no part of `path` under it may be a
            symbolic link.

    Raises:
        NotRegularFileError: it is something else, or a link where none may be.
        OSError: as `open` raises it.
    """
    if below is not None:
        refuse_links(path, below)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (os.O_NOFOLLOW if below is not None else 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:  # how the system answers for a socket
            raise NotRegularFileError(errno.EINVAL, "it is a socket, not a regular file", str(path)) from None
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise NotRegularFileError(errno.EINVAL, _kind(mode), str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def refuse_links(path: Path, below: Path) -> None:
    """Refuse `path` where it, or a folder between `below` and it, is a symbolic link.

    Raises:
        NotRegularFileError: with the link's path; also where `path` is not below `below`.
    """
    try:
        parts = path.relative_to(below).parts
    except ValueError:
        parts = ("..",)
    if ".." in parts:
        raise NotRegularFileError(errno.EINVAL, f"it is outside {below}", str(path))
    for number in range(len(parts)):
        inner = below.joinpath(*parts[: number + 1])
        if inner.is_symlink():
            raise NotRegularFileError(errno.ELOOP, "it is a symbolic link, which is not followed here", str(inner))


def read_bytes(path: Path, limit: int = MAX_TEXT, *, below: Path | None = None) -> bytes:
    """The whole content of a regular file.

    Args:
        limit: bytes; a longer file is refused without being read.
        below: as for `open_file`.

    Raises:
        TooLargeError: longer than `limit`.
        NotRegularFileError, OSError: as `open_file` raises them.
    """
    with open_file(path, below=below) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise TooLargeError(errno.EFBIG, f"it is larger than {_size(limit)}", str(path))
    return data


def read_text(path: Path, limit: int = MAX_TEXT, *, below: Path | None = None) -> str:
    """The content of a text file in UTF-8, without a byte order mark.

    Raises:
        UnicodeDecodeError: not UTF-8.
        TooLargeError, NotRegularFileError, OSError: as `read_bytes` raises them.
    """
    return read_bytes(path, limit, below=below).decode("utf-8-sig")


def read_script(path: Path) -> str:
    """The text of a script or configuration: UTF-8, or UTF-16 with the byte order mark that PowerShell writes.

    A TOML file is UTF-8 by its specification.

    Raises:
        UnicodeDecodeError: neither; `SAVE_AS_UTF8` says what a person can do.
        TooLargeError, NotRegularFileError, OSError: as `read_bytes` raises them.
    """
    data = read_bytes(path)
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and path.suffix.lower() != ".toml"
    return data.decode("utf-16" if marked else "utf-8-sig")


def parse_json(text: str | bytes, *, surrogates: bool = True) -> Any:
    """A JSON value with limits: at most `MAX_DEPTH` levels, finite numbers, whole numbers below `MAX_INT`.

    Args:
        surrogates: whether text may hold lone surrogates. Our own records use them for file names that are not UTF-8;
            what another program sends has no such reason, and UTF-8 cannot hold them.

    Raises:
        ValueError: not JSON, or beyond a limit; one line that says which.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    check_limits(value, surrogates=surrogates)
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML document with the limits of `parse_json`.

    Raises:
        ValueError: not TOML (then a `tomllib.TOMLDecodeError`), or beyond a limit; one line that says which.
    """
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    check_limits(value, surrogates=False)
    return value


def check_limits(value: Any, *, surrogates: bool = True) -> None:
    """Refuse a value of JSON or TOML that is nested too deep or holds a number beyond the formats.

    Raises:
        ValueError: says where and what.
    """
    for where, item, depth in _walk(value):
        at = f"{where}: " if where else ""
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"{at}{item} is not a finite number")
        if isinstance(item, int) and not -MAX_INT < item < MAX_INT:
            raise ValueError(f"{at}a whole number of {item.bit_length()} bits is too large")
        if isinstance(item, str) and not surrogates and _lone_surrogate(item):
            raise ValueError(f"{at}the text holds half of a surrogate pair, which is not a character")


def _walk(value: Any) -> Iterator[tuple[str, Any, int]]:
    """Every value with its dotted place and depth; not recursive, as the depth is what is checked."""
    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    while waiting:
        where, item, depth = waiting.pop()
        yield where, item, depth
        if depth > MAX_DEPTH:
            continue
        if isinstance(item, dict):
            for key, inner in item.items():
                yield where, key, depth
                waiting.append((f"{where}.{key}" if where else str(key), inner, depth + 1))
        elif isinstance(item, list):
            waiting.extend((where, inner, depth + 1) for inner in item)


def _lone_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "it is not a regular file")


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count >= 2**20 else f"{count} bytes"
