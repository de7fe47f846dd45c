"""An event log without reading all of it: its newest events, and a few of its steps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from engine.reading import open_file, read_tail
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


PLACE_BYTES = 4096
"""Read at each place of an event log; some ten steps."""


def sampled_losses(path: Path, count: int) -> list[float]:
    """The smoothed loss at so many evenly spaced places of an event log, the newest last; fewer in a short one."""
    losses: dict[int, float] = {}
    try:
        with open_file(path, below=record_root(path)) as file:
            size = file.seek(0, os.SEEK_END)
            for number in range(1, count + 1):
                file.seek(max(0, size * number // count - PLACE_BYTES))
                for line in reversed(file.read(PLACE_BYTES).split(b"\n")):
                    event = parse_event(line)
                    if isinstance(event, StepEvent) and event.step is not None and event.loss_average is not None:
                        losses[event.step] = event.loss_average
                        break
    except OSError:
        return []
    return [losses[step] for step in sorted(losses)]
