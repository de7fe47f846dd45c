"""The entries of a queue and its journal as lines of text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.queue.entry import RUNNING
from engine.queue.process import running
from engine.queue.store import summary
from engine.runs.layout import RunDir
from engine.runs.state import moment, true_state
from engine.text import printable
from tui.texts import _

if TYPE_CHECKING:
    from engine.queue import Entry, Queue, Runner
    from engine.queue.journal import Line


def heading(queue: Queue, runner: Runner | None, entries: list[Entry]) -> str:
    """What the queue does, and how many entries it has."""
    if runner is not None:
        does = _("works on {place} as process {pid}").format(place=runner.place or _("this machine"), pid=runner.pid)
        if queue.paused:
            does += _(", paused: starts nothing new")
    else:
        does = _("paused") if queue.paused else _("not running")
    return _("Queue {path}: {does}; {entries}").format(
        path=printable(queue.path), does=does, entries=summary(entries) or _("empty")
    )


def lines(queue: Queue) -> list[str]:
    """The list as the shell prints it: a heading, then an entry a line, with the reason of a failure below it."""
    entries = queue.entries()
    width = max((len(printable(entry.name)) for entry in entries), default=0)
    result = [heading(queue, running(queue), entries)]
    for entry in entries:
        where = f"  {printable(entry.node)}" if entry.node else ""
        result.append(
            f"{entry.id}  {printable(entry.name):{width}}  {entry.state:8}  {progress(entry):>11}  "
            f"{moment(since(entry))}{where}"
        )
        if entry.reason:
            result.append(f"      {printable(entry.reason.title)}: {printable(entry.reason.message)}")
            result += [f"      hint: {printable(line)}" for line in entry.reason.hint.splitlines()]
    return result


def record(queue: Queue) -> dict[str, Any]:
    """The list for programs."""
    runner, entries = running(queue), queue.entries()
    return {
        "queue": str(queue.path),
        "paused": queue.paused,
        "pid": runner.pid if runner else None,
        "on": runner.place if runner else None,
        "entries": [_entry(queue, entry) for entry in entries],
    }


def _entry(queue: Queue, entry: Entry) -> dict[str, Any]:
    state = true_state(RunDir(Path(entry.run_dir))) if entry.started is not None else None
    return {
        "id": entry.id, "name": entry.name, "state": entry.state, "path": entry.run_dir,
        "config": str(queue.config_path(entry)), "step": state.step if state else 0,
        "max_train_steps": state.max_train_steps if state else None, "added": entry.added, "started": entry.started,
        "ended": entry.ended, "tries": entry.tries, "cards": list(entry.cards), "node": entry.node,
        "reason": entry.as_json()["reason"] if entry.reason else None,
    }  # fmt: skip


def progress(entry: Entry) -> str:
    """The step of an entry that was started: "12/140"."""
    if entry.started is None:
        return ""
    state = true_state(RunDir(Path(entry.run_dir)))
    return f"{state.step}/{state.max_train_steps}" if state.max_train_steps else str(state.step)


def since(entry: Entry) -> float:
    """When an entry became what it is, as far as it is recorded."""
    if entry.ended is not None:
        return entry.ended
    return entry.started if entry.state == RUNNING and entry.started is not None else entry.added


def journal_line(line: Line) -> str:
    """A line of the journal for a person."""
    who = f"{line.entry} {line.name}" if line.entry else _("queue")
    return printable(f"{moment(line.time)}  {who}: {line.text}")
