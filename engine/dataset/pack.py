"""Packs: files that hold many small records, each found by its key. A folder may hold the packs of many processes.

Each process appends to a pack of its own and only reads those of others, so that no lock is needed. Nothing is synced:
every record has a digest, which is verified whenever it is read, and whatever a killed process or a power cut left
unfinished counts as absent. A folder of packs may come from elsewhere: nothing in it is trusted.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from engine.atomic import machine_tag
from engine.errors import storing
from engine.reading import open_file
from engine.text import printable

SUFFIX = ".pack"
MOST_BYTES = 2**30
"""Of a record: the latent of an image of 16384×16384 pixels is smaller."""
MOST_RECORDS = 4_000_000
"""In a folder; about 200 bytes of memory each."""
_START = b"LSPACK1\n"
"""First bytes of a pack."""
_HEAD = struct.Struct("<4sQ32s32sI")
"""Before each record: a mark, the number of bytes, the key, the SHA-256 of key and bytes, and the CRC of that."""
_MARK = b"RCRD"


class DamagedRecordError(Exception):
    """A record whose bytes are not those that were written; the message is a part of a sentence."""


class _Place(NamedTuple):
    pack: str
    offset: int
    """Of its head."""
    size: int


@dataclass
class _Known:
    """How much of a pack is in the index."""

    inode: int
    end: int
    closed: bool = False
    """Whether what follows cannot be read."""


class Packs:
    """The records of all packs in a folder, and a new pack for what is added. Reading is thread-safe.

    Args:
        directory: an existing folder.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._places: dict[bytes, _Place] = {}
        self._known: dict[str, _Known] = {}
        self._own: _OwnPack | None = None
        self.damaged: list[str] = []
        """A message for each pack that cannot be read to its end; whoever reports them clears the list."""
        self.refresh()

    def refresh(self) -> None:
        """Look for records that other processes have added. Reads only what is new, and no data."""
        for name in _pack_names(self._directory):
            with suppress(OSError):
                self._index(name)

    def read(self, key: bytes) -> bytes | None:
        """The bytes of a record; None without one, or if its pack was removed.

        A damaged record counts as absent from then on.

        Raises:
            DamagedRecordError: it is damaged.
        """
        place = self._places.get(key)
        if place is None:
            return None
        try:
            with open_file(self._directory / place.pack, below=self._directory) as file:
                record = os.pread(file.fileno(), _HEAD.size + place.size, place.offset)
        except FileNotFoundError:
            self._places.pop(key, None)
            return None
        except OSError as error:
            self._places.pop(key, None)
            raise DamagedRecordError(f"{printable(place.pack)}: {error.strerror or error}") from error
        head, data = _Head.of(record), record[_HEAD.size :]
        if head is None or head.key != key or head.size != len(data) or head.digest != _digest(key, data):
            self._places.pop(key, None)
            raise DamagedRecordError(f"{printable(place.pack)} at byte {place.offset}: wrong checksum")
        return data

    def add(self, key: bytes, data: bytes) -> None:
        """Append a record to this process's pack; a record with the same key in another pack is no longer used.

        Raises:
            StorageError: no space, or no permission; nothing of the record is left.
        """
        if self._own is None or not self._own.is_there():
            self._own = _OwnPack(self._directory)
        own = self._own
        try:
            offset = own.append(_Head(len(data), key, _digest(key, data)).packed(), data)
        except BaseException:
            self._own = None
            raise
        self._places[key] = _Place(own.path.name, offset, len(data))
        self._known[own.path.name] = _Known(own.inode, own.end)

    def _index(self, name: str) -> None:
        with open_file(self._directory / name, below=self._directory) as file:
            status = os.fstat(file.fileno())
            known = self._known.get(name)
            if known is None or known.inode != status.st_ino:
                if os.pread(file.fileno(), len(_START), 0) != _START:
                    return  # not a pack, or one without a record
                known = self._known[name] = _Known(status.st_ino, len(_START))
            if known.closed:
                return
            for head in _heads(file.fileno(), known.end, status.st_size):
                if head is None or len(self._places) >= MOST_RECORDS:
                    known.closed = True
                    self.damaged.append(
                        f"cache file {printable(name)} cannot be read from byte {known.end} on; what is missing is "
                        "created again"
                    )
                    return
                self._places[head.key] = _Place(name, known.end, head.size)
                known.end += _HEAD.size + head.size


class _OwnPack:
    """The pack that this process appends to.

    Raises:
        StorageError: it cannot be created.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"{time.time_ns():020d}-{os.getpid()}-{machine_tag()}{SUFFIX}"
        self.end = 0
        """Of the last record."""
        with storing(self.path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o644)
        self.inode = os.fstat(self._descriptor).st_ino

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            os.close(self._descriptor)

    def is_there(self) -> bool:
        """Whether the path still leads to this file: somebody may have emptied the cache folder."""
        with suppress(OSError):
            return self.path.lstat().st_ino == self.inode
        return False

    def append(self, *parts: bytes) -> int:
        """Append a record; returns its offset.

        Raises:
            StorageError: no space; nothing of it is left, and of a pack without a record, not even the file.
        """
        start = b"" if self.end else _START
        with storing(self.path):
            try:
                self._write(b"".join([start, *parts]))
            except OSError:
                self._undo()
                raise
        offset = self.end + len(start)
        self.end = offset + sum(map(len, parts))
        return offset

    def _write(self, data: bytes) -> None:
        left, offset = memoryview(data), self.end
        while left:
            written = os.pwrite(self._descriptor, left, offset)
            left, offset = left[written:], offset + written

    def _undo(self) -> None:
        with suppress(OSError):
            if self.end:
                os.ftruncate(self._descriptor, self.end)
            else:
                self.path.unlink()


class _Head(NamedTuple):
    size: int
    """Of the data."""
    key: bytes
    digest: bytes

    @classmethod
    def of(cls, record: bytes) -> _Head | None:
        """The head at the beginning of a record; None if it is damaged."""
        if len(record) < _HEAD.size:
            return None
        mark, size, key, digest, _check = _HEAD.unpack_from(record)
        head = cls(size, key, digest)
        return head if mark == _MARK and size <= MOST_BYTES and head.packed() == record[: _HEAD.size] else None

    def packed(self) -> bytes:
        """As it is written."""
        fields = _HEAD.pack(_MARK, self.size, self.key, self.digest, 0)
        return _HEAD.pack(_MARK, self.size, self.key, self.digest, zlib.crc32(fields))


def _heads(descriptor: int, offset: int, end: int) -> Iterator[_Head | None]:
    """The heads of the records from `offset` on that end before `end`; None for one that is damaged.

    A record that is not complete is no damage: its process is still writing it, or was killed.
    """
    while offset + _HEAD.size <= end:
        data = os.pread(descriptor, _HEAD.size, offset)
        if not any(data):  # the file has its new size, but not its bytes
            return
        head = _Head.of(data)
        if head is None:
            yield None
            return
        offset += _HEAD.size + head.size
        if offset > end:
            return
        yield head


def _pack_names(directory: Path) -> list[str]:
    """The oldest first, so that of two records with one key the newest counts."""
    with suppress(OSError), os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if entry.name.endswith(SUFFIX))
    return []


def _digest(key: bytes, data: bytes) -> bytes:
    digest = hashlib.sha256(key)
    digest.update(data)
    return digest.digest()
