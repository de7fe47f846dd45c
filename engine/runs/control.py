"""`control/`: commands to the trainer, each a file that appears by rename; a `control_ack` event answers each."""

from __future__ import annotations

import itertools
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UsageError
from engine.reading import read_json
from engine.runs.events import ControlAckEvent, EventLog
from engine.runs.integrity import require_sound
from engine.runs.layout import MAX_RECORD, RunDir, write_record

COMMANDS = ("stop", "save_now", "sample_now", "pause", "continue", "set")
POLL_SECONDS = 0.2
"""`ControlBox.poll` looks at most this often."""
_count = itertools.count()


@dataclass(frozen=True)
class Command:
    """One command. `value` of `set` is {"key": ..., "value": ...}, of the others None."""

    id: str
    name: str
    value: Any = None


def request(run_dir: RunDir, command: str, value: Any = None) -> str:
    """Write a command and return its id, which the answer has too.

    Raises:
        UsageError: `set` of a key that cannot change during a run, or the run is damaged
            (`integrity.fault_of`).
        StorageError: it cannot be written.
    """
    refusal = _refusal(command, value)
    if refusal:
        from engine.config.change import LIVE_KEYS

        raise UsageError(
            refusal, f"These can change: {', '.join(LIVE_KEYS)}." if command == "set" else "", code="key-not-changeable"
        )
    require_sound(run_dir)
    identifier = f"{time.time_ns():020d}-{os.getpid()}-{next(_count)}"
    run_dir.control.mkdir(parents=True, exist_ok=True)
    write_record(run_dir.control / f"{identifier}.json", {"command": command, "value": value})
    return identifier


def _refusal(command: object, value: Any) -> str:
    if not isinstance(command, str) or command not in COMMANDS:
        return f"unknown command {str(command)[:60]!r}"
    if command != "set":
        return ""
    from engine.config.change import LIVE_KEYS

    if not isinstance(value, dict) or set(value) != {"key", "value"}:
        return "set needs a key and a value"
    return "" if value["key"] in LIVE_KEYS else f"{str(value['key'])[:60]} cannot change during a run."


class ControlBox:
    """The trainer's side. Without commands a poll costs one directory listing (some ten microseconds)."""

    def __init__(self, run_dir: RunDir, events: EventLog) -> None:
        self._directory = run_dir.control
        self._events = events
        self._next_look = 0.0

    def poll(self) -> list[Command]:
        """`take`, but at most every `POLL_SECONDS`; in between there are no commands. For loops of fast steps."""
        now = time.monotonic()
        if now < self._next_look:
            return []
        self._next_look = now + POLL_SECONDS
        return self.take()

    def take(self) -> list[Command]:
        """Remove and return the commands, oldest first. Invalid ones are refused here."""
        try:
            with os.scandir(self._directory) as entries:
                names = [entry.name for entry in entries if not entry.name.startswith(".")]
        except OSError:
            return []  # somebody removed the directory: there are no commands
        return [command for name in sorted(names) if (command := self._open(self._directory / name))]

    def _open(self, path: Path) -> Command | None:
        identifier, name, value = path.stem, "", None
        try:
            content = read_json(path, MAX_RECORD, below=path.parent)
            name, value = content["command"], content.get("value")
            refusal = _refusal(name, value)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            refusal = "not a command file"
        with suppress(OSError):
            path.unlink()
        if os.path.lexists(path):
            return None  # cannot be removed: it would be executed at every step
        command = Command(identifier, str(name)[:60], value)
        if refusal:
            self.acknowledge(command, f"refused: {refusal}")
            return None
        return command

    def acknowledge(self, command: Command, result: str) -> None:
        """Answer a command: "done", "refused: ...", or what was done."""
        self._events.emit(ControlAckEvent(id=command.id, command=command.name, result=result))


def clear(run_dir: RunDir) -> int:
    """Remove unread commands, so that a resumed run does not execute an old "stop"; returns their number."""
    require_sound(run_dir)
    if not run_dir.control.is_dir():
        return 0
    old = [path for path in run_dir.control.iterdir() if path.is_symlink() or not path.is_dir()]
    for path in old:
        path.unlink(missing_ok=True)
    return sum(not path.name.startswith(".") for path in old)
