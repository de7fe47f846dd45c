"""Reading files of people, run directories and other programs: regular files only, and within limits.

A named pipe or a device under a file's name would block or never end; JSON and TOML nested a thousand levels deep, or
with numbers that no computer format holds, would break the code that uses the value later. All of that is refused here,
with an `OSError` whose `strerror` is the reason, or with a `ValueError`; callers put either into their own message.
"""

from __future__ import annotations

import codecs
import errno
import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

MAX_DEPTH = 100
"""Nesting levels of lists and tables."""
MAX_TEXT = 16 * 2**20
"""Bytes of a record or a table: a JSON text of this size needs at most about 400 MiB when read."""
MAX_INT = 2**64
"""Numbers from here on fit no format."""
MAX_VALUES = 6_000_000
"""Values of a JSON text, as its commas and opening brackets count them: each takes up to 100 bytes when read."""
MAX_CONFIG = 4 * 2**20
"""Bytes of a configuration; parsing so much TOML takes some seconds."""
_LONG_KEY = re.compile(r"""(?<![\w"'.-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){1000}""")
"""A dotted key of so many parts that `tomllib` would need hours for it. No prose has so many one-word sentences."""
SAVE_AS_UTF8 = "Save it as UTF-8 text. In Notepad: File, Save as, Encoding: UTF-8."
_PIECE = 2**16
_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotRegularFileError(OSError):
    """A folder, named pipe, socket, device, or a link where links are not allowed."""


class TooLargeError(OSError):
    """More bytes than a file of its kind can have."""


def open_file(path: Path, *, below: Path | None = None) -> BufferedReader:
    """Open a regular file for reading; never blocks on anything else.

    Args:
        below: a folder whose content is not trusted, such as a run directory: no part of `path` under it may be a
            symbolic link.

    Raises:
        NotRegularFileError: it is something else, or a link where links are not allowed.
        OSError: as `open` raises it.
    """
    if below is not None:
        refuse_links(path, below)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (os.O_NOFOLLOW if below is not None else 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:  # the error for a socket
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


def require_regular(path: Path, *, below: Path | None = None) -> None:
    """Refuse what `open_file` refuses, for a library that opens the file itself."""
    open_file(path, below=below).close()


def is_regular(path: Path) -> bool:
    """Whether this path is a regular file; a link is not, whatever it points at. Never raises."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return False


def open_for_writing(path: Path, flags: int, *, below: Path, mode: int = 0o644) -> int:
    """A descriptor of a file in a folder whose content is not trusted, such as a run directory.

    Args:
        flags: as for `os.open`, such as `os.O_WRONLY | os.O_APPEND | os.O_CREAT`.
        below: no part of `path` under it may be a symbolic link.

    Raises:
        NotRegularFileError: it is a link, or not a regular file.
        OSError: as `os.open` raises it.
    """
    refuse_links(path, below)
    kind = path.lstat().st_mode if os.path.lexists(path) else stat.S_IFREG
    if not stat.S_ISREG(kind):
        raise NotRegularFileError(errno.EINVAL, _kind(kind), str(path))
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, mode)


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
    """The complete content of a regular file.

    Args:
        limit: bytes; a longer file is refused without being read.
        below: as for `open_file`.

    Raises:
        TooLargeError: longer than `limit`.
        NotRegularFileError, OSError: as `open_file` raises them.
    """
    with open_file(path, below=below) as file:
        data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)  # `read` allocates all of it at once
        while len(data) <= limit and (more := file.read(_PIECE)):  # it has grown, or its size is unknown
            data += more
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


def read_json(path: Path, limit: int = MAX_TEXT, *, below: Path | None = None) -> Any:
    """The JSON value of a file, within the limits of `parse_json`.

    Raises:
        ValueError: not JSON, not UTF-8, or beyond a limit.
        TooLargeError, NotRegularFileError, OSError: as `read_bytes` raises them.
    """
    return parse_json(read_text(path, limit, below=below))


def read_tail(path: Path, count: int, *, below: Path | None = None) -> tuple[bytes, bool]:
    """The last `count` bytes of a file of any size, and whether that is all of it.

    Raises:
        NotRegularFileError, OSError: as `open_file` raises them.
    """
    with open_file(path, below=below) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - count))
        return file.read(count), size <= count


def read_script(path: Path) -> str:
    """The text of a script or configuration: UTF-8, or UTF-16 with the byte order mark that PowerShell writes.

    A TOML file is UTF-8 by its specification.

    Raises:
        UnicodeDecodeError: neither; `SAVE_AS_UTF8` is the hint.
        TooLargeError, NotRegularFileError, OSError: as `read_bytes` raises them.
    """
    data = read_bytes(path, MAX_CONFIG)
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and path.suffix.lower() != ".toml"
    return data.decode("utf-16" if marked else "utf-8-sig")


def parse_json(text: str | bytes, *, surrogates: bool = True) -> Any:
    """A JSON value with limits: at most `MAX_DEPTH` levels, finite numbers, whole numbers below `MAX_INT`.

    Args:
        surrogates: whether text may hold lone surrogates. Our own records use them for file names that are not UTF-8;
            what another program sends has no such reason, and UTF-8 cannot hold them.

    Raises:
        ValueError: not JSON, or beyond a limit; the message is one line.
    """
    commas, lists, tables = (",", "[", "{") if isinstance(text, str) else (b",", b"[", b"{")
    if text.count(commas) + text.count(lists) + text.count(tables) > MAX_VALUES:  # type: ignore[arg-type]
        raise ValueError(f"it holds more than {MAX_VALUES:,} values")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    check_limits(value, surrogates=surrogates)
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML document with the limits of `parse_json`.

    Raises:
        ValueError: not TOML (then a `tomllib.TOMLDecodeError`), or beyond a limit; the message is one line.
    """
    if len(text) > MAX_CONFIG:
        raise ValueError(f"it is longer than {MAX_CONFIG / 2**20:.0f} MiB")
    if _LONG_KEY.search(text):
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    check_limits(value, surrogates=False)
    return value


def check_limits(value: Any, *, surrogates: bool = True) -> None:
    """Refuse a value of JSON or TOML that is nested too deep or holds a number beyond the formats.

    Raises:
        ValueError: with the key and the reason.
    """
    _check(value, "", surrogates)
    waiting: list[tuple[str, Any, int]] = [("", value, 1)]  # lists and tables; not recursive: the depth is checked here
    while waiting:
        where, item, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        for key, inner in item.items() if isinstance(item, dict) else _numbered(item):
            if not _is_plain(key, surrogates):
                _check(key, where, surrogates)
            if not _is_plain(inner, surrogates):  # a place in words for few: a vocabulary has tens of thousands
                place = where if isinstance(item, list) else f"{where}.{key}" if where else str(key)
                if isinstance(inner, (dict, list)):
                    waiting.append((place, inner, depth + 1))
                else:
                    _check(inner, place, surrogates)


def _numbered(item: Any) -> Iterator[tuple[int, Any]]:
    """The members of a list; none of another value."""
    return enumerate(item) if isinstance(item, list) else iter(())


def _is_plain(item: Any, surrogates: bool) -> bool:
    """Whether it is a text or a number in the limits; other values need a closer look."""
    kind = type(item)
    return (kind is str and (surrogates or item.isascii())) or (kind is int and -MAX_INT < item < MAX_INT)


def _check(item: Any, where: str, surrogates: bool) -> None:
    at = f"{where}: " if where else ""
    if isinstance(item, float) and not math.isfinite(item):
        raise ValueError(f"{at}{item} is not a finite number")
    if isinstance(item, int) and not -MAX_INT < item < MAX_INT:
        raise ValueError(f"{at}a whole number of {item.bit_length()} bits is too large")
    if isinstance(item, str) and not surrogates and _lone_surrogate(item):
        raise ValueError(f"{at}the text holds half of a surrogate pair, which is not a character")


def _lone_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def noun(mode: int) -> str:
    """The kind of file of an `st_mode`: "a file", "a folder", "a symbolic link", "a named pipe", …"""
    return next((name for test, name in _KINDS if test(mode)), "something unknown")


def _kind(mode: int) -> str:
    return "it is a folder" if stat.S_ISDIR(mode) else f"it is {noun(mode)}, not a regular file"


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count >= 2**20 else f"{count} bytes"
