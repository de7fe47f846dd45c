"""Writes `events.jsonl`: the events of a run, one JSON object a line. One process appends, any number read."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.reading import open_for_writing
from engine.runs.events.follower import EventFollower
from engine.runs.events.models import ErrorEvent, Event, RunFinishedEvent, event_of
from engine.runs.layout import record_root


class EventLog:
    """The writer. It never stops training: events that cannot be written are counted in `dropped`.

    Args:
        path: events.jsonl; an existing one is continued, after ending an unfinished last line.
        reserve: a file that is removed to report the end of the run on a full disk.
    """

    def __init__(self, path: Path, reserve: Path | None = None) -> None:
        self.dropped = 0
        self._lock = threading.Lock()
        """A thread that waits for a logger emits events too."""
        self._reserve = reserve
        self._seq, self._broken = _continuation(path)
        self._path, self._file = path, -1
        with suppress(OSError):  # retried with each event
            self._open()

    def emit(self, event: Event) -> None:
        """Append one event. Non-finite numbers become null."""
        with self._lock:
            self._emit(event)

    @property
    def last_seq(self) -> int:
        """Number of the newest event; -1 in an empty log."""
        return self._seq - 1

    def _emit(self, event: Event) -> None:
        stamped = event_of(event.type, _finite(event.data), self._seq, round(time.time(), 3))
        line = stamped.as_json().encode("ascii") + b"\n"
        self._seq += 1
        if self._write(line):
            return
        if isinstance(event, (ErrorEvent, RunFinishedEvent)) and self._reserve is not None:
            with suppress(OSError):
                self._reserve.unlink()
            if self._write(line):
                return
        self.dropped += 1

    def _open(self) -> None:
        if self._file < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._file = open_for_writing(self._path, flags, below=record_root(self._path))

    def _write(self, line: bytes) -> bool:
        data = b"\n" + line if self._broken else line
        try:
            self._open()
            written = os.write(self._file, data)
        except OSError:
            return False
        self._broken = written < len(data) and (written > 0 or self._broken)
        return written == len(data)

    def sync(self) -> None:
        """Make the events durable, as a saved state is."""
        with suppress(OSError):
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file; no event can follow."""
        if self._file >= 0:
            os.close(self._file)


def _continuation(path: Path) -> tuple[int, bool]:
    """The next sequence number of an existing log, and whether its last line is unfinished."""
    follower = EventFollower(path)
    following = 0
    while events := follower.poll():
        following = max(following, events[-1].seq + 1)
    return following, follower.partial


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, str)) else _plain(value)


def _plain(value: Any) -> Any:
    """Paths as text, NumPy and torch scalars as numbers, without importing either."""
    return _finite(value.item()) if hasattr(value, "item") else str(value)
