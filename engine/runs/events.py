"""`events.jsonl`: what happens in a run, one JSON object a line. One process appends, any number read."""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.reading import NotRegularFileError, open_file, open_for_writing, parse_json
from engine.runs.layout import record_root
from engine.runs.values import count, number, numbers, seconds, text

VERSION = 1
EVENT_TYPES = frozenset({
    "run_started", "phase", "progress", "step", "validation", "sample", "saved", "state_saved", "note", "warning",
    "control_ack", "oom", "retry", "memory_plan", "error", "run_finished",
})  # fmt: skip
"""The types of version 1. Readers ignore others.

run_started: name, step, max_train_steps, pid. phase: name, state (start, end), step; the start of "train" also has
max_train_steps, epochs, updates_per_epoch. progress: phase, done, total, unit;
of captions also written [pictures], in a trial proposed [{picture, before, after}].
step: step, epoch, loss, loss_average, lr {group: value}, grad_norm, images_per_second, seconds_per_step, eta_seconds,
memory {}. validation: step, loss. sample: path, prompt, index, step (0: before the first). saved: path, bytes, step,
epoch, difference. state_saved: path, step. note: text. warning: code, text; sample_out_of_memory also has what oom
has. control_ack: id, command, result. oom: phase, step, message, device, and in bytes or null requested, free, total,
allocated, reserved; before the error, or before a retry: step, remedy, text, changes {}, after which the same process
starts anew (run_started), or where only samples were drawn goes on. memory_plan: step, and by phase in GiB planned {},
measured {}, and planned / measured - 1 difference {}. error: title, message, hint. run_finished: state,
exit_code, step. Paths are absolute or relative to the run directory.
"""
_TELLS_THE_END = {"error", "run_finished"}
MAX_LINE = 4 * 2**20
"""Bytes of an event; the longest, about captions on trial, has some KiB."""


def _table(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _proposals(value: Any) -> list[dict[str, str]]:
    tables = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    keys = ("picture", "before", "after")
    return [{key: text(table.get(key)) or "" for key in keys} for table in tables]


_KINDS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys((
        "step", "index", "epoch", "max_train_steps", "epochs", "updates_per_epoch", "done", "total", "bytes",
        "requested", "free", "allocated", "reserved", "pid", "exit_code",
    ), count),
    **dict.fromkeys((
        "loss", "loss_average", "grad_norm", "images_per_second", "seconds_per_step", "eta_seconds",
    ), number),
    **dict.fromkeys((
        "name", "state", "phase", "unit", "path", "prompt", "text", "code", "id", "command", "result", "message",
        "device", "remedy", "title", "hint",
    ), text),
    "lr": numbers, "memory": numbers, "changes": _table, "written": _texts, "proposed": _proposals,
}  # fmt: skip
"""What each key means in every event: a log may come from anywhere, and whoever shows it relies on these."""


@dataclass(frozen=True)
class Event:
    """One line of the log; `data` holds everything but v, seq, time and type."""

    type: str
    seq: int
    time: float
    data: Mapping[str, Any] = field(default_factory=dict)

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the event; `default` when it is missing, null, or not what the key means."""
        value = self.data.get(key)
        if value is not None and (kind := _KINDS.get(key)) is not None:
            value = kind(value)
        return default if value is None else value

    def as_json(self) -> str:
        """The event as its line in the log."""
        head = {"v": VERSION, "seq": self.seq, "time": self.time, "type": self.type}
        return json.dumps({**head, **self.data}, allow_nan=False)


class EventLog:
    """The one writer. Writing events never stops training: what the disk refuses is counted in `dropped`.

    Args:
        path: events.jsonl; an existing one is continued, with its unfinished last line ended.
        reserve: a file that is removed when the disk is full and the end of the run must be told.
    """

    def __init__(self, path: Path, reserve: Path | None = None) -> None:
        self.dropped = 0
        self._reserve = reserve
        self._seq, self._broken = _continuation(path)
        self._path, self._file = path, -1
        with suppress(OSError):  # it is tried again with each event
            self._open()

    def emit(self, type: str, **data: Any) -> None:
        """Append one event. Non-finite numbers become null."""
        assert type in EVENT_TYPES, type
        line = Event(type, self._seq, round(time.time(), 3), _finite(data)).as_json().encode("ascii") + b"\n"
        self._seq += 1
        if self._write(line):
            return
        if type in _TELLS_THE_END and self._reserve is not None:
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
        """No event can follow."""
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


class EventFollower:
    """Reads a log that grows: by byte offset, in binary, keeping an unfinished last line for the next time.

    A file that was replaced by another one is read from its start; one that shrank, or was copied anew, is read
    without repeating events. `bad_lines` counts what is no event. A line longer than `MAX_LINE` is none, and is never
    held in memory. What is no regular file, or lies behind a link, is read as an empty log.
    """

    CHUNK = 1 << 20
    HEAD = 256

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bad_lines = 0
        self._head = b""
        self._restart(seen=-1)

    def _restart(self, seen: int) -> None:
        self._offset, self._rest, self._seen = 0, b"", seen
        self._skips = False
        """The line that is being read is too long: what is left of it is dropped."""

    @property
    def partial(self) -> bool:
        """True while the last line has no end."""
        return bool(self._rest) or self._skips

    def poll(self) -> list[Event]:
        """The next events, oldest first; empty when there is nothing new at this moment."""
        while True:
            data = self._read()
            if not data:
                return []
            events = [event for line in self._lines(data) if (event := self._parse(line)) and event.seq > self._seen]
            if events:
                self._seen = max(event.seq for event in events)
                return events

    def _lines(self, data: bytes) -> list[bytes]:
        """The lines that end in `data`; what has no end is kept for the next time."""
        if self._skips:
            _, end, data = data.partition(b"\n")
            self._skips = not end
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            self._rest, self._skips = b"", True
            self.bad_lines += 1
        return lines

    def _read(self) -> bytes:
        try:
            with open_file(self.path, below=record_root(self.path)) as file:
                head = file.read(self.HEAD)
                common = min(len(head), len(self._head))
                if head[:common] != self._head[:common]:
                    self._head = b""
                    self._restart(seen=-1)
                elif file.seek(0, os.SEEK_END) < self._offset:
                    self._restart(seen=self._seen)
                self._head = max(self._head, head, key=len)
                file.seek(self._offset)
                data = file.read(self.CHUNK)
        except OSError as error:
            if isinstance(error, NotRegularFileError) or error.errno in (errno.ENOENT, errno.ESTALE, errno.EIO):
                return b""
            raise
        self._offset += len(data)
        return data

    def _parse(self, line: bytes) -> Event | None:
        if not line.strip():
            return None
        event = parse_event(line)
        self.bad_lines += event is None
        return event


def parse_event(line: bytes) -> Event | None:
    """One line of a log; None where it is no event."""
    try:
        value = parse_json(line) if len(line) <= MAX_LINE else None
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    kind, seq, moment = text(value.pop("type", None)), count(value.pop("seq", None)), seconds(value.pop("time", None))
    value.pop("v", None)
    return None if kind is None or seq is None or moment is None else Event(kind, seq, moment, value)


def read_events(path: Path) -> list[Event]:
    """All events that are in the log now; empty when there is none."""
    follower = EventFollower(path)
    events: list[Event] = []
    while found := follower.poll():
        events += found
    return events
