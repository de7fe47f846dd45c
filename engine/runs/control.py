"""`control/`: wishes to the trainer, each a file that appears by rename; each is answered by a `control_ack` event."""

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
from engine.runs.events import EventLog
from engine.runs.integrity import require_sound
from engine.runs.layout import MAX_RECORD, RunDir, write_record

COMMANDS = ("stop", "save_now", "sample_now", "pause", "continue", "set")
LIVE_KEYS = (
    "training.learning_rate", "training.unet_lr", "training.text_encoder_lr", "sampling.sample_every_n_steps",
    "saving.save_every_n_steps", "saving.save_state_every_n_steps",
)  # fmt: skip
"""The settings that `set` can change while a run goes on."""
_count = itertools.count()


@dataclass(frozen=True)
class Command:
    """One wish. `value` of `set` is {"key": ..., "value": ...}, of the others None."""

    id: str
    name: str
    value: Any = None


def request(run_dir: RunDir, command: str, value: Any = None) -> str:
    """Put a wish into the box and return its id, which the answer carries.

    Raises:
        UsageError: `set` of a key that cannot change while the run goes on, or the run is damaged
            (`integrity.fault_of`).
        StorageError: the box cannot be written.
    """
    refusal = _refusal(command, value)
    if refusal:
        raise UsageError(refusal, f"These can change: {', '.join(LIVE_KEYS)}." if command == "set" else "")
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
    if not isinstance(value, dict) or set(value) != {"key", "value"}:
        return "set needs a key and a value"
    return "" if value["key"] in LIVE_KEYS else f"{str(value['key'])[:60]} cannot change while the run goes on."


class ControlBox:
    """The trainer's side. An empty box costs one directory listing (some ten microseconds)."""

    def __init__(self, run_dir: RunDir, events: EventLog) -> None:
        self._directory = run_dir.control
        self._events = events

    def take(self) -> list[Command]:
        """Remove and return the wishes, oldest first. What is no command is answered here with its refusal."""
        try:
            with os.scandir(self._directory) as entries:
                names = [entry.name for entry in entries if not entry.name.startswith(".")]
        except OSError:
            return []  # somebody removed the box: nothing can be wished
        return [command for name in sorted(names) if (command := self._open(self._directory / name))]

    def _open(self, path: Path) -> Command | None:
        identifier, name, value = path.stem, "", None
        try:
            wish = read_json(path, MAX_RECORD, below=path.parent)
            name, value = wish["command"], wish.get("value")
            refusal = _refusal(name, value)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            refusal = "not a command file"
        with suppress(OSError):
            path.unlink()
        if os.path.lexists(path):
            return None  # cannot be removed: obeying it at every step would be worse
        command = Command(identifier, str(name)[:60], value)
        if refusal:
            self.acknowledge(command, f"refused: {refusal}")
            return None
        return command

    def acknowledge(self, command: Command, result: str) -> None:
        """Answer a wish: "done", "refused: ...", or what was done."""
        self._events.emit("control_ack", id=command.id, command=command.name, result=result)


def clear(run_dir: RunDir) -> int:
    """Remove the wishes that nobody took, so that a resumed run does not obey an old "stop"; how many there were."""
    require_sound(run_dir)
    if not run_dir.control.is_dir():
        return 0
    old = [path for path in run_dir.control.iterdir() if path.is_symlink() or not path.is_dir()]
    for path in old:
        path.unlink(missing_ok=True)
    return sum(not path.name.startswith(".") for path in old)
