"""The measures of pictures, kept on the disk by path, size and time: a second report, and one after a cut, is quick.

A database in the user's cache, which may be deleted at any time; one file for all folders. Maps and thumbnails stay
there and are read when they are needed, so that memory does not grow with them.
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

from engine.dataset.report.measures import VERSION, Measures, Taken
from engine.paths import user_cache

MOST = 200_000
"""Pictures that are kept; the oldest go first. About 4 KiB each."""
_ROWS = 128
"""Rows of one transaction: what a cut loses."""


_Row = tuple[bytes, int, int, str]


@dataclass(frozen=True, slots=True)
class Key:
    """A picture file as it is now, and how it is measured."""

    path: Path
    size: int
    mtime_ns: int
    settings: str

    @classmethod
    def of(cls, path: Path, settings: str) -> Key:
        """The key of a file; of size -1 where it is gone."""
        try:
            status = path.stat()
        except OSError:
            return cls(path, -1, 0, settings)
        return cls(path, status.st_size, status.st_mtime_ns, settings)

    @property
    def row(self) -> _Row:
        """As the database has it."""
        return os.fsencode(self.path.absolute()), self.size, self.mtime_ns, f"{VERSION} {self.settings}"


class Shelf:
    """What is known of pictures. Only one thread of one process at a time may use an instance."""

    def __init__(self, place: Path | None = None) -> None:
        self.note = ""
        """Why nothing is kept for the next time; empty where it is."""
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.path = path = place or user_cache() / "report.sqlite"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._opened(path)
        except (OSError, sqlite3.Error) as error:
            self.note = f"{path} cannot be used ({error}): a later report will measure all pictures again"
            self._temporary = tempfile.TemporaryDirectory(prefix="lorasmith-report-")
            self._database = self._opened(Path(self._temporary.name) / "report.sqlite")
        self._waiting: dict[_Row, tuple[str, bytes, bytes, str]] = {}
        """Not yet on the disk; all of it stays here where the disk refuses."""

    @staticmethod
    def _opened(path: Path) -> sqlite3.Connection:
        try:
            return _connected(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            path.unlink()  # damaged: it holds nothing that could not be measured again
            return _connected(path)

    def find(self, key: Key) -> Taken | None:
        """What was taken from this file before, without its map; None where it was not, or the file has changed."""
        row = self._row("measures, thumb, reason", key)
        if row is None:
            return None
        return Taken(Measures.restored(row[0]) if row[0] else None, row[1], b"", row[2])

    def keep(self, key: Key, taken: Taken) -> None:
        """Remember what was taken; other states of the same file are forgotten."""
        stored = taken.measures.as_text() if taken.measures else ""
        self._waiting[key.row] = (stored, taken.thumb, taken.marks, taken.reason)
        if len(self._waiting) % _ROWS == 0:
            self.save()

    def marks(self, keys: Sequence[Key]) -> Iterator[bytes]:
        """The map of each file, in order; empty for one that has none."""
        for key in keys:
            waiting = self._waiting.get(key.row)
            row = (waiting[2],) if waiting is not None else self._row("marks", key)
            yield row[0] if row is not None else b""

    def _row(self, columns: str, key: Key) -> Any:
        wanted = f"SELECT {columns} FROM taken WHERE path=? AND size=? AND mtime=? AND settings=?"
        return self._database.execute(wanted, key.row).fetchone()

    def save(self) -> None:
        """Everything to the disk."""
        now = int(time.time())
        rows = [(*key, *values, now) for key, values in self._waiting.items()]
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO taken VALUES (?,?,?,?,?,?,?,?,?)", rows)
        except sqlite3.Error as error:
            self.note = f"{self.path} cannot be written ({error}): a later report will measure these pictures again"
        else:
            self._waiting.clear()

    def close(self) -> None:
        """Save, and forget what is oldest."""
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
