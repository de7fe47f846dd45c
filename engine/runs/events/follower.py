"""Reads `events.jsonl` while it grows, whatever its content."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from engine.reading import NotRegularFileError, open_file, parse_json
from engine.runs.events.models import Event, event_of
from engine.runs.layout import record_root
from engine.runs.values import count, seconds, text

MAX_LINE = 4 * 2**20
"""Bytes of an event; the longest, about captions on trial, has some KiB."""


class EventFollower:
    """Reads a log that grows: by byte offset, in binary, keeping an unfinished last line for the next poll.

    A file that was replaced by another one is read from its start; one that shrank, or was copied, is read without
    repeating events. `bad_lines` counts invalid lines. A line longer than `MAX_LINE` is invalid, and is never held in
    memory. Anything but a regular file, or a path with a link, is read as an empty log.
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
        """The current line is too long: the rest of it is dropped."""

    @property
    def partial(self) -> bool:
        """True while the last line has no end."""
        return bool(self._rest) or self._skips

    def poll(self) -> list[Event]:
        """The next events, oldest first; empty when there is nothing new."""
        while True:
            data = self._read()
            if not data:
                return []
            events = [event for line in self._lines(data) if (event := self._parse(line)) and event.seq > self._seen]
            if events:
                self._seen = max(event.seq for event in events)
                return events

    def _lines(self, data: bytes) -> list[bytes]:
        """The lines that end in `data`; an unfinished one is kept for the next poll."""
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
    """The event in a line of a log; None where it is invalid."""
    try:
        value = parse_json(line) if len(line) <= MAX_LINE else None
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    kind, seq, moment = text(value.pop("type", None)), count(value.pop("seq", None)), seconds(value.pop("time", None))
    value.pop("v", None)
    return None if kind is None or seq is None or moment is None else event_of(kind, value, seq, moment)


def read_events(path: Path) -> list[Event]:
    """All events in the log; empty when there is none."""
    follower = EventFollower(path)
    events: list[Event] = []
    while new := follower.poll():
        events += new
    return events
