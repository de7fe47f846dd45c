"""The measures of images on disk by path, size and time, so that a second or interrupted report is quick.

One database for all folders in the user's cache, which may be deleted at any time. Maps and thumbnails are read only
when needed, to bound memory.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.dataset.report.measures import VERSION, MeasureResult, Measures
from engine.paths import user_cache

MOST = 200_000
"""Most images in the cache; the oldest are dropped first. About 4 KiB each."""
_ROWS = 128
"""Rows per transaction: at most so many are lost on a kill."""


_Row = tuple[bytes, int, int, str]


@dataclass(frozen=True, slots=True)
class Key:
    """The current state of an image file, and how it is measured."""

    path: Path
    size: int
    mtime_ns: int
    settings: str

    @classmethod
    def of(cls, path: Path, settings: str) -> Key:
        """The key of a file; size -1 if it does not exist."""
        try:
            status = path.stat()
        except OSError:
            return cls(path, -1, 0, settings)
        return cls(path, status.st_size, status.st_mtime_ns, settings)

    @property
    def row(self) -> _Row:
        """The primary key in the database."""
        return os.fsencode(self.path.absolute()), self.size, self.mtime_ns, f"{VERSION} {self.settings}"


class MeasureCache:
    """The cache of measures. An instance is for one thread of one process at a time."""

    def __init__(self, place: Path | None = None) -> None:
        self.note = ""
        """Why nothing is saved for the next report; empty if it is."""
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.path = path = place or user_cache() / "report.sqlite"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._opened(path)
        except (OSError, sqlite3.Error) as error:
            self.note = f"{path} cannot be used ({error}): a later report will measure all images again"
            self._temporary = tempfile.TemporaryDirectory(prefix="lorasmith-report-")
            self._database = self._opened(Path(self._temporary.name) / "report.sqlite")
        self._waiting: dict[_Row, tuple[str, bytes, bytes, str]] = {}
        """Rows not yet on disk; they stay here if saving fails."""

    @staticmethod
    def _opened(path: Path) -> sqlite3.Connection:
        try:
            return _connected(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            path.unlink()  # damaged; everything in it can be measured again
            return _connected(path)

    def find(self, key: Key) -> MeasureResult | None:
        """The saved result of this file, without its map; None if there is none, or the file has changed."""
        row = self._row("measures, thumb, reason", key)
        if row is None:
            return None
        return MeasureResult(Measures.restored(row[0]) if row[0] else None, row[1], b"", row[2])

    def add(self, key: Key, result: MeasureResult) -> None:
        """Add a result; it replaces those of other states of the file."""
        measures = result.measures.as_text() if result.measures else ""
        self._waiting[key.row] = (measures, result.thumb, result.marks, result.reason)
        if len(self._waiting) % _ROWS == 0:
            self.save()

    def marks(self, keys: Sequence[Key]) -> Iterator[bytes]:
        """The map of each file, in order; empty if it has none."""
        for key in keys:
            waiting = self._waiting.get(key.row)
            row = (waiting[2],) if waiting is not None else self._row("marks", key)
            yield row[0] if row is not None else b""

    def _row(self, columns: str, key: Key) -> Any:
        query = f"SELECT {columns} FROM taken WHERE path=? AND size=? AND mtime=? AND settings=?"
        return self._database.execute(query, key.row).fetchone()

    def save(self) -> None:
        """Write all waiting rows to disk."""
        now = int(time.time())
        rows = [(*key, *values, now) for key, values in self._waiting.items()]
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO taken VALUES (?,?,?,?,?,?,?,?,?)", rows)
        except sqlite3.Error as error:
            self.note = f"{self.path} cannot be written ({error}): a later report will measure these images again"
        else:
            self._waiting.clear()

    def close(self) -> None:
        """Save, and drop the oldest rows."""
        self.save()
        with suppress(sqlite3.Error), self._database:
            self._database.execute(
                "DELETE FROM taken WHERE rowid IN (SELECT rowid FROM taken ORDER BY time DESC LIMIT -1 OFFSET ?)",
                (MOST,),
            )
        self._database.close()
        if self._temporary is not None:
            self._temporary.cleanup()


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=30)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute(
        "CREATE TABLE IF NOT EXISTS taken (path BLOB, size INT, mtime INT, settings TEXT, measures TEXT, thumb BLOB, "
        "marks BLOB, reason TEXT, time INT, PRIMARY KEY (path, settings))"
    )
    return database
