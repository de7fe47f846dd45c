"""An entry of the queue on the screen: its row, and its details."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual.content import Content

from engine.queue.entry import RUNNING, STATES
from engine.text import printable
from tui.text.cells import clipped
from tui.text.queue import since
from tui.text.rows import COLOURS, FRAME, NARROW_NAME, SIGNS, Column, progress, short_moment
from tui.text.run import phase_text
from tui.texts import _, ngettext

if TYPE_CHECKING:
    from engine.queue import Entry, Runner
    from engine.runs import RunState

QUEUE_SIGNS = {**SIGNS, "waiting": ("○", _("waiting"), ""), "held": ("‖", _("held"), "yellow")}
"""State to sign, word and colour."""
COLUMNS = (
    Column("id", _("No."), 5),
    Column("name", _("Name"), 20),
    Column("state", _("State"), 10),
    Column("step", _("Step"), 15),
    Column("when", _("Since"), 12),
    Column("where", _("Where"), 12),
)


@dataclass(frozen=True)
class Seen:
    """An entry at one moment, with the state of its run."""

    entry: Entry
    run: RunState | None
    """None before it was started, and after it was deleted."""

    @property
    def is_gone(self) -> bool:
        """Whether the run of an entry that does not wait was deleted or moved."""
        return self.run is None and self.entry.started is not None and self.entry.has_ended


def columns_for(width: int) -> tuple[Column, ...]:
    """The columns of a terminal so wide: the name has what the others leave, and the machine is left out first, then
    the time."""
    columns = list(COLUMNS)
    while True:
        rest = width - FRAME - sum(column.width for column in columns if column.name != "name") - 2 * len(columns)
        if rest >= NARROW_NAME or len(columns) <= 4:
            return tuple(replace(column, width=rest) if column.name == "name" else column for column in columns)
        columns.pop()


def sign(state: str) -> str:
    """Sign and word of a state."""
    mark, word, _colour = QUEUE_SIGNS[state]
    return f"{mark} {word}"


def row(seen: Seen, columns: tuple[Column, ...]) -> tuple[Text, ...]:
    """The cells of an entry."""
    entry = seen.entry
    widths = {column.name: column.width for column in columns}
    cells = {
        "id": Text(entry.id),
        "name": Text(clipped(printable(entry.name), widths["name"], keep_end=True)),
        "state": Text(sign(entry.state), QUEUE_SIGNS[entry.state][2]),
        "step": Text(_step(seen), justify="right"),
        "when": Text(short_moment(since(entry))),
        "where": Text(clipped(printable(entry.node), widths.get("where", 0))),
    }
    return tuple(cells[column.name] for column in columns)


def _step(seen: Seen) -> str:
    if seen.run is not None:
        return progress(seen.run.step, seen.run.max_train_steps)
    return _("run deleted") if seen.is_gone else ""


def searched(seen: Seen) -> str:
    """What a filter looks through: number, name, state, machine."""
    entry = seen.entry
    return f"{entry.id} {entry.name} {sign(entry.state)} {entry.node}"


def ranks(seen: Seen) -> tuple[Any, ...]:
    """What the list can be sorted by, after the queue's own order: name, state."""
    return (seen.entry.name.casefold(), STATES.index(seen.entry.state))


def about(seen: Seen) -> Content:
    """The details of an entry, one per line."""
    entry = seen.entry
    symbol, word, colour = QUEUE_SIGNS[entry.state]
    first = Content.assemble((f" {symbol} {word} ", f"bold reverse {COLOURS.get(colour, '')}"), f" {_sentence(seen)}")
    lines = [first]
    lines += [Content.styled(printable(line), "$text-warning") for line in entry.reason.hint.splitlines()]
    command = printable(shlex.join(entry.command_line))
    return Content("\n").join([*lines, Content(printable(entry.run_dir)), Content.styled(command, "dim")])


def _sentence(seen: Seen) -> str:
    entry = seen.entry
    if entry.reason:
        return printable(f"{entry.reason.title}: {entry.reason.message}")
    if entry.state == RUNNING:
        run = seen.run
        where = _(" on {0}").format(printable(entry.node)) if entry.node else ""
        phase = phase_text(run.phase) or _(run.state) if run is not None and run.live else _("waiting for a machine")
        return phase + where
    if entry.tries:
        return ngettext("Started {0} time.", "Started {0} times.", entry.tries).format(entry.tries)
    return _("Added {0}.").format(short_moment(entry.added))


def about_queue(entries: list[Entry], runner: Runner | None, paused: bool) -> str:
    """What the queue does."""
    waits = any(entry.state == "waiting" for entry in entries)
    if runner is None:
        if paused:
            return _("‖ paused; p starts it")
        return _("□ not running; p starts it") if waits else _("□ not running")
    place = printable(runner.place) or _("this machine")
    if paused:
        return _("‖ starting nothing new: process {0} on {1}").format(runner.pid, place)
    return _("▶ running: process {0} on {1}").format(runner.pid, place)
