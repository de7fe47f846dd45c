"""SHA-256 of files, each file read once while its size, times and inode stay."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.reading import open_file


class FileDigests:
    """Digests of files, remembered in this process. Threads may share one: at worst a file is read twice."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int, int, int], str] = {}

    def of(self, path: Path) -> str:
        """SHA-256 of the content of `path`, in hexadecimal.

        Raises:
            OSError: it is missing, unreadable, or no regular file.
        """
        with open_file(path) as file:
            status = path.stat()
            seen = (path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            if seen not in self._known:
                self._known[seen] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[seen]
