"""Losses of several runs in one chart; each run's points are its letter, and its line has dashes of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from textual.content import Content
from textual.events import Resize

from engine.runs.scales import Scale, step_scale, value_scale
from tui.display.symbols import symbols
from tui.text.cells import clipped
from tui.texts import _
from tui.widgets.chart import Canvas, Row, labelled, legible, step_labels
from tui.widgets.lines import Lines

DASHES = ((1, 0), (6, 3), (2, 2), (9, 2), (4, 4), (1, 3))
"""Numbers of dots that are drawn and left out, by the run's place."""
STYLES = ("$text-primary", "$text-warning", "$text-success", "$text-accent", "$text-secondary", "$text-error")
Curves = Sequence[tuple[str, Mapping[int, float]]]
"""(label that begins with the run's letter, loss by step)"""


class OverlayChart(Lines):
    """Draws the curves of `show`."""

    HELP = _(
        "### Curves\n\nThe validation loss of each run by step, at fixed timesteps and noise. Each run has its letter "
        "at every measurement; where two letters would share a cell, the later run's is shown. Runs with other "
        "validation images, or another base model, cannot be compared by it."
    )
    DEFAULT_CSS = "OverlayChart { height: 1fr; width: 1fr; }"

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._curves: Curves = ()

    def show(self, curves: Curves) -> None:
        """Draw these curves."""
        self._curves = curves
        self._draw()

    def on_resize(self, _: Resize) -> None:
        """Another size."""
        self._draw()

    def _draw(self) -> None:
        rows = overlay_rows(self._curves, *self.content_size)
        self.set_text(
            Content("\n").join(Content.assemble(*((text, _style(kind)) for text, kind in row)) for row in rows)
        )


def _style(kind: str) -> str:
    return f"bold {STYLES[int(kind) % len(STYLES)]}" if kind.isdecimal() else "dim" if kind == "axis" else ""


def overlay_rows(curves: Curves, width: int, height: int) -> list[Row]:
    """The chart as rows of (text, kind); kinds are the place of a run, axis, and "" for plain."""
    if not legible(width, height):
        return []
    drawn = [(place, label, losses) for place, (label, losses) in enumerate(curves) if losses]
    if not drawn:
        return [[(_("No validation loss in these runs."), "axis")]]
    room = width // len(drawn) - 2
    legend: Row = [(f"{clipped(label, room)}  ", str(place)) for place, label, _losses in drawn]
    columns, rows = width - 8, height - 2
    across = step_scale(max(max(losses) for _, _, losses in drawn), None, columns)
    up = value_scale([loss for _, _, losses in drawn for loss in losses.values()])
    canvases = [(place, _traced(place, losses, across, up, columns, rows)) for place, _label, losses in drawn]
    letters = {
        (across.at(step, columns * 2) // 2, rows - 1 - up.at(loss, rows * 4) // 4): (label[0], str(place))
        for place, label, losses in drawn for step, loss in losses.items()
    }  # fmt: skip
    body = [_row(y, columns, canvases, letters) for y in range(rows)]
    return [legend, *labelled(body, up, rows), step_labels(across, columns)]


def _traced(place: int, losses: Mapping[int, float], across: Scale, up: Scale, columns: int, rows: int) -> Canvas:
    canvas = Canvas(columns, rows)
    spots = [(across.at(step, columns * 2), up.at(loss, rows * 4)) for step, loss in sorted(losses.items())]
    for (x0, y0), (x1, y1) in pairwise(spots):
        canvas.line(x0, y0, x1, y1, dashes=DASHES[place % len(DASHES)])
    return canvas


def _row(
    y: int, columns: int, canvases: Sequence[tuple[int, Canvas]], letters: Mapping[tuple[int, int], tuple[str, str]]
) -> Row:
    """One row of cells, equal kinds joined; a later run hides an earlier one where they share a cell."""
    pieces: Row = []
    for x in range(columns):
        dot = next(((place, bits) for place, canvas in reversed(canvases) if (bits := canvas.cells[y][x])), None)
        if (x, y) in letters:
            text, kind = letters[x, y]
        else:
            text, kind = (symbols().cell(dot[1]), str(dot[0])) if dot else (" ", "")
        if pieces and pieces[-1][1] == kind:
            pieces[-1] = (pieces[-1][0] + text, kind)
        else:
            pieces.append((text, kind))
    return pieces
