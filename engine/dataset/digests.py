"""SHA-256 of files, cached by size, times and inode."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.reading import open_file


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
                self._digests[state] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digests[state]


def _file_state(path: Path) -> tuple[Path, int, int, int, int]:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
