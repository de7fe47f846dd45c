"""The end of an event log: what is newest, without reading what may be long."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TAIL_BYTES = 64 * 1024
"""Of an event log; some two hundred steps."""


def last_lines(path: Path) -> tuple[list[bytes], bool]:
    """The last lines, oldest first, and whether something without an end follows them. The first one may be cut."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            *lines, rest = file.read().split(b"\n")
    except OSError:
        return [], False
    return lines, bool(rest)


def latest_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events in the last lines, the newest first, each read when it is asked for."""
    for line in reversed(last_lines(path)[0]):
        try:
            event = json.loads(line)
        except ValueError:  # cut at the beginning
            continue
        if isinstance(event, dict):
            yield event


def latest_step(path: Path) -> dict[str, Any] | None:
    """The newest event of a training step."""
    return next((event for event in latest_events(path) if event.get("type") == "step"), None)
