"""The journal of a queue: a line for everything that happened to its entries, and where. Append-only."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import storing
from engine.reading import open_for_writing, parse_json, read_tail
from engine.runs.values import seconds, text

MOST_READ = 4 * 2**20
"""Bytes of the journal's end that are read: some ten thousand lines."""


@dataclass(frozen=True)
class Line:
    """One thing that happened."""

    time: float
    entry: str
    """Id of the entry; empty for the queue itself."""
    name: str
    what: str
    """added, moved, held, released, removed, requeued, started, resumed, adopted, placed, lost, finished, failed or
    stopped; of the queue: queue-started, queue-paused or queue-ended."""
    text: str
    """The same for a person."""
    node: str = ""


class Journal:
    """Writes and reads journal.jsonl."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0

    def write(self, what: str, sentence: str, *, entry: str = "", name: str = "", node: str = "") -> None:
        """Append a line, in one write: processes of several machines may do so.

        Raises:
            StorageError: no space or no permission.
        """
        record = {"time": round(time.time(), 3), "entry": entry, "name": name, "what": what, "text": sentence}
        line = json.dumps({**record, **({"node": node} if node else {})}) + "\n"
        with storing(self.path):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            file = open_for_writing(self.path, flags, below=self.path.parent)
            try:
                os.write(file, line.encode("ascii"))
            finally:
                os.close(file)

    def read(self) -> list[Line]:
        """The lines so far, those at the beginning of a very long journal left out."""
        try:
            data = read_tail(self.path, MOST_READ, below=self.path.parent)[0]
        except OSError:
            return []
        return list(_lines(data))

    def skip(self) -> None:
        """The next `poll` begins here."""
        with suppress(OSError):
            self._position = self.path.stat().st_size

    def poll(self) -> list[Line]:
        """The lines that were written since the last call, or since `skip`."""
        try:
            size = self.path.stat().st_size
            if size <= self._position:
                return []
            data = read_tail(self.path, min(size - self._position, MOST_READ), below=self.path.parent)[0]
        except OSError:
            return []
        complete = data.rpartition(b"\n")[0]
        self._position += len(complete) + 1 if complete else 0
        return list(_lines(complete))


def _lines(data: bytes) -> Iterator[Line]:
    for written in data.splitlines():
        with suppress(ValueError):  # half a line, or the rest of a longer one
            record = parse_json(written)
            if not isinstance(record, dict):
                continue
            when, what = seconds(record.get("time")), text(record.get("what"))
            if when is not None and what is not None:
                words = [text(record.get(key)) or "" for key in ("entry", "name", "text", "node")]
                yield Line(when, words[0], words[1], what, words[2], words[3])
