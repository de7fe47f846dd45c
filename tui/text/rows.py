"""A run in the list of runs: its row, and its details."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual.content import Content

from engine.runs.tail import last_lines, sampled_losses
from engine.runs.values import local_time
from engine.text import printable
from tui.display.symbols import symbols
from tui.text.cells import clipped, sparkline
from tui.texts import _

if TYPE_CHECKING:
    from engine.runs import KnownRun, RunDir

SIGNS = {
    "starting": ("▷", _("starting"), "cyan"),
    "running": ("▶", _("running"), "green"),
    "paused": ("‖", _("paused"), "yellow"),
    "stopping": ("■", _("stopping"), "yellow"),
    "finished": ("✓", _("finished"), "green"),
    "stopped": ("□", _("stopped"), ""),
    "failed": ("✗", _("failed"), "red"),
    "lost": ("!", _("lost"), "red"),
    "unknown": ("?", _("unknown"), "yellow"),
    "damaged": ("✗", _("damaged"), "red"),
}
"""State to sign, word and colour; each is enough without the others."""


COLOURS = {"green": "$text-success", "yellow": "$text-warning", "red": "$text-error"}
"""Of `SIGNS`, as the style sheet names them."""
CURVE = 24
"""Cells of a bar and of a curve in a run's details."""

MARK = "◆"
"""Before the name of a run that is marked for comparison."""


@dataclass(frozen=True)
class Column:
    """A column of the table; `width` in cells."""

    name: str
    title: str
    width: int


COLUMNS = (
    Column("name", _("Name"), 20),
    Column("state", _("State"), 10),
    Column("step", _("Step"), 17),
    Column("when", _("Last seen"), 12),
    Column("where", _("Where"), 11),
)


NARROW_NAME = 12
"""Least cells of a name, where the terminal is too narrow for all columns."""
FRAME = 5
"""Cells beside the table: its frame, its margins, the scroll bar."""


def columns_for(width: int) -> tuple[Column, ...]:
    """The columns of a terminal so wide: the place has the rest of the width, and is left out where there is none; then
    the moment it was last seen."""
    *others, where = COLUMNS
    rest = width - FRAME - sum(column.width for column in others) - 2 * len(COLUMNS)
    if rest >= where.width:
        return (*others, replace(where, width=rest))
    name, *others = others
    rest = width - FRAME - sum(column.width for column in others) - 2 * (len(others) + 1)
    if rest < NARROW_NAME:
        *others, when = others
        rest += when.width + 2
    return (replace(name, width=max(NARROW_NAME, rest)), *others)


def sign(state: str) -> str:
    """Sign and word of a state."""
    mark, word, _colour = SIGNS.get(state, ("?", state, ""))
    return f"{mark} {word}"


def row(run: KnownRun, columns: int, *, marked: bool = False) -> tuple[Text, ...]:
    """The cells of a run in a terminal of so many columns."""
    state, mark = run.state, f"{MARK} " if marked else ""
    colour = SIGNS.get(state.state, ("", "", ""))[2]
    layout = columns_for(columns)
    name = printable(run.title)
    name = _("{0} (earlier)").format(name) if run.archived else name
    cells = (
        Text(clipped(f"{mark}{name}", layout[0].width), "bold" if marked else ""),
        Text(sign(state.state), colour),
        Text(progress(state.step, state.max_train_steps), justify="right"),
        Text(short_moment(state.updated)),
        Text(clipped(_place(run.run_dir), layout[-1].width, keep_end=True)),
    )
    return cells[: len(layout)]


def bar(share: float, cells: int) -> Content:
    """A bar that can be read without colour."""
    full = round(min(1.0, max(0.0, share)) * cells)
    marks = symbols()
    return Content.assemble((marks.full * full, "bold $accent"), (marks.empty * (cells - full), "dim"))


def step_words(step: int, total: int | None) -> str:
    """ "300 of 1200 (25 %)"."""
    return _("{0} of {1} ({2} %)").format(step, total, 100 * step // total) if total else str(step)


def searched(run: KnownRun) -> str:
    """What a filter of the list looks through: names, note, state, place."""
    return f"{run.title} {run.name} {run.remarks.note} {sign(run.state.state)} {run.run_dir.path}"


def ranks(run: KnownRun) -> tuple[Any, ...]:
    """What the list can be sorted by: name, state with the live ones first, progress, last seen, place."""
    state = run.state
    share = state.step / state.max_train_steps if state.max_train_steps else 0.0
    return (
        run.title.casefold(),
        list(SIGNS).index(state.state) if state.state in SIGNS else len(SIGNS),
        -share,
        -(state.updated or 0.0),
        str(run.run_dir.path),
    )


def progress(step: int, steps: int | None) -> str:
    """ "120/2000  6 %", or the step alone."""
    return f"{step}/{steps} {100 * step // steps:3d} %" if steps else str(step)


def short_moment(seconds: float | None) -> str:
    """Today's time, else the day."""
    then, now = local_time(seconds), time.localtime()
    if then is None:
        return _("unknown")
    if then[:3] == now[:3]:
        return time.strftime(_("today %H:%M"), then)
    return time.strftime(_("%d %b %H:%M") if then.tm_year == now.tm_year else "%Y-%m-%d", then)


def about_place(run: KnownRun) -> str:
    """A run as an answer in a list: name, state, place."""
    return f"{printable(run.title)}  {sign(run.state.state)}  {_place(run.run_dir)}"


def _place(run_dir: RunDir) -> str:
    """The run's directory; of a project's current results the project's."""
    from engine.runs.layout import CURRENT

    path = run_dir.path.parent if run_dir.path.name == CURRENT else run_dir.path
    text, home = printable(path), printable(Path.home())
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text


def about(run: KnownRun) -> Content:
    """The details of a run, one per line. Reads files: call it in a worker."""
    state, detail = run.state, printable(run.state.detail).rstrip(".")
    symbol, word, colour = SIGNS.get(state.state, ("?", state.state, ""))
    losses, unfinished = sampled_losses(run.run_dir.events_path, CURVE), last_lines(run.run_dir.events_path)[1]
    lines = [
        Content.assemble((f" {symbol} {word} ", f"bold reverse {COLOURS.get(colour, '')}"), f" {_sentence(detail)}"),
        Content.assemble(bar(state.step / (state.max_train_steps or state.step or 1), CURVE), f"  {_steps(run)}"),
    ]
    if losses:
        loss = _("loss {0:.4f}").format(losses[-1])
        lines.append(Content.assemble((sparkline(losses).ljust(CURVE), "$accent"), f"  {loss}"))
    if run.remarks.note:
        lines.append(Content.styled(printable(run.remarks.note), "italic"))
    lines += [Content.styled(f"! {sentence}", "$text-warning") for sentence in _notes(run, unfinished)]
    return Content("\n").join([*lines, Content(printable(run.run_dir.path))])


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _steps(run: KnownRun) -> str:
    state = run.state
    return f"{step_words(state.step, state.max_train_steps)} · " + _("epoch {0}").format(state.epoch)


def _notes(run: KnownRun, unfinished: bool) -> Iterator[str]:
    from engine.runs.state import read_exit

    run_dir, state = run.run_dir, run.state.state
    if run.archived:
        yield _("An earlier run, kept aside when a newer one started.")
    if not run_dir.meta:
        yield _("Its record (.run/meta.json) cannot be read.")
    elif not run_dir.config_path.is_file():
        yield _("Its configuration {0} is missing: it cannot be resumed.").format(printable(run_dir.config_path.name))
    if state == "failed":
        hint = str((read_exit(run_dir) or {}).get("hint") or "")
        if hint:
            yield "\n".join(map(printable, hint.split("\n")))
    if unfinished and not run.state.live:
        yield _("The last event is incomplete; everything before it is intact.")
    if state == "lost":
        yield _("Press r to continue from the last saved state.")
    if not os.access(run_dir.private, os.W_OK):
        yield _("Read-only: you don't have write permission.")
