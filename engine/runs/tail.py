"""The end of an event log: its newest events, without reading a long file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.reading import read_tail
from engine.runs.events import Event, StepEvent, parse_event
from engine.runs.layout import record_root

TAIL_BYTES = 64 * 1024
"""Read from the end of an event log; some two hundred steps."""


def last_lines(path: Path) -> tuple[list[bytes], bool]:
    """The last lines, oldest first, and whether an unfinished line follows them. The first one may be cut."""
    try:
        *lines, rest = read_tail(path, TAIL_BYTES, below=record_root(path))[0].split(b"\n")
    except OSError:
        return [], False
    return lines, bool(rest)


def latest_events(path: Path) -> Iterator[Event]:
    """The events in the last lines, the newest first, each parsed on demand."""
    for line in reversed(last_lines(path)[0]):
        if (event := parse_event(line)) is not None:
            yield event


def latest_step(path: Path) -> StepEvent | None:
    """The newest event of a training step."""
    return next((event for event in latest_events(path) if isinstance(event, StepEvent)), None)
