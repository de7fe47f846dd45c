"""SHA-256 of files, cached by size, times and inode."""

from __future__ import annotations

import hashlib
from io import BufferedReader
from pathlib import Path

from engine.reading import open_file

_PIECE = 2**23
"""Bytes."""


class FileDigests:
    """Digests of files, cached in this process. Thread-safe: at worst a file is read twice."""

    def __init__(self) -> None:
        self._digests: dict[tuple[Path, int, int, int, int], str] = {}

    def add(self, path: Path, stamp: tuple[int, int, int], digest: str) -> None:
        """Add a digest computed by an earlier process, unless the file has changed since.

        Args:
            stamp: (size in bytes, mtime in ns, ctime in ns) at that time.

        Raises:
            OSError: the file is missing.
        """
        state = _file_state(path)
        if state[1:4] == stamp:
            self._digests[state] = digest

    def of(self, path: Path) -> str:
        """SHA-256 of the content of `path`, in hexadecimal.

        Raises:
            OSError: it is missing, unreadable, or not a regular file.
        """
        with open_file(path) as file:
            state = _file_state(path)
            if state not in self._digests:
                self._digests[state] = _sha256(file, state[1])
        return self._digests[state]

    def known(self, path: Path) -> bool:
        """Whether the digest of the file as it is does not have to be computed.

        Raises:
            OSError: the file is missing.
        """
        return _file_state(path) in self._digests


def _sha256(file: BufferedReader, size: int) -> str:
    """Of what is left of a file, in large pieces: before each, a thread waits for the interpreter.

    Args:
        size: of the file in bytes.
    """
    digest, piece = hashlib.sha256(), memoryview(bytearray(max(1, min(size, _PIECE))))
    while read := file.readinto(piece):
        digest.update(piece[:read])
    return digest.hexdigest()


def _file_state(path: Path) -> tuple[Path, int, int, int, int]:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
