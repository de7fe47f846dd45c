"""The loss as a line chart in braille dots: the raw loss faint, the smoothed one bright, validation losses as marks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget

from engine.runs.curve import Bin, Curve
from engine.runs.scales import Scale, loss_scale, step_scale, step_text, tick_text
from tui.display.symbols import symbols
from tui.texts import _

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bit of a braille cell by column and row of the dot."""
SECONDS, SLOW_SECONDS = 5.0, 60.0
"""The curves are redrawn at most this often, on slow lines more rarely: a terminal is sent whole rows, and a row has
many colour changes."""
Row = list[tuple[str, str]]
"""Text and its kind, from left to right."""


class LossChart(Widget, can_focus=True):
    """Draws the curves of `show`; the numbers above are updated at once, the curves every few seconds."""

    HELP = _(
        "### Loss\n\nLow is not best: the training loss can fall while the images get worse. The validation loss (●), "
        "of images that are not trained on, and the samples show which file to use."
    )
    DEFAULT_CSS = """
    LossChart { height: 1fr; width: 1fr; }
    LossChart .chart--raw { text-style: dim; }
    LossChart .chart--smoothed { color: $accent; text-style: bold; }
    LossChart .chart--mark { color: $foreground; text-style: bold; }
    LossChart .chart--axis { text-style: dim; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"chart--raw", "chart--smoothed", "chart--mark", "chart--axis"}

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._curves: tuple[Curve, Curve, Mapping[int, float], int | None] = (Curve(), Curve(), {}, None)
        self._rows: list[Row] = []
        self._drawn = -SECONDS
        self._drawn_step: int | None = None
        """The newest step of the curves as they were drawn last."""
        self._occasion: object = None
        self._due: Timer | None = None
        self._pace = SECONDS

    def on_mount(self) -> None:
        """Redraw more rarely on a slow line."""
        appearance = getattr(self.app, "appearance", None)
        self._pace = SLOW_SECONDS if getattr(appearance, "low_bandwidth", False) else SECONDS

    def show(
        self, raw: Curve, smoothed: Curve, marks: Mapping[int, float], total: int | None, occasion: object = None
    ) -> None:
        """Draw these; `marks` are validation losses by step, `total` the steps of the whole run. Where `occasion`
        differs from the last, the curves are redrawn at once."""
        self._curves = (raw, smoothed, marks, total)
        occasion = (occasion, len(marks))
        before, self._occasion = self._occasion, occasion
        width, height = self.content_size
        if len(self._rows) < 2 or not legible(width, height) or occasion != before:
            self.redraw()
            return
        top = self._rows[1]
        if self._pace == SLOW_SECONDS and self._drawn_step is not None and self._drawn_step != self._newest_step:
            top = with_remark(top, _("drawn up to step {0}").format(self._drawn_step))
        self._replace([legend_row(raw, smoothed, marks, width), top, *self._rows[2:]])
        if self._due is None:
            # On a busy machine Textual divides by the interval: not 0.
            self._due = self.set_timer(max(0.001, self._drawn + self._pace - time.monotonic()), self.redraw)

    def on_resize(self) -> None:
        """Another size."""
        self.redraw()

    def on_show(self) -> None:
        """Its pane is shown again."""
        self.redraw()

    @property
    def _newest_step(self) -> int | None:
        raw, smoothed, marks, _total = self._curves
        return newest_step(raw, smoothed, marks)

    def redraw(self) -> None:
        """Draw the curves as they are now, without waiting."""
        if self._due is not None:
            self._due.stop()
            self._due = None
        self._drawn, self._drawn_step = time.monotonic(), self._newest_step
        self._replace(chart_rows(*self._curves, *self.content_size, dotted=self.app.no_color))

    def _replace(self, rows: list[Row]) -> None:
        before, self._rows = self._rows, rows
        if len(rows) != len(before):
            self.refresh()
            return
        for y, (old, new) in enumerate(zip(before, rows, strict=True)):
            if old != new:
                self.refresh(Region(0, y, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        """One row as last drawn."""
        row = self._rows[y] if y < len(self._rows) else []
        base = self.rich_style
        segments = [
            Segment(text, base + self.get_component_rich_style(f"chart--{kind}", partial=True) if kind else base)
            for text, kind in row
        ]
        return Strip(segments).adjust_cell_length(self.size.width, base)


def legible(width: int, height: int) -> bool:
    """Whether a chart is readable in so many cells."""
    return width >= 20 and height >= 4


def newest_step(raw: Curve, smoothed: Curve, marks: Mapping[int, float]) -> int | None:
    """The last step that the curves have; None where they are empty."""
    return max([curve.last.step for curve in (raw, smoothed) if curve.last] + list(marks), default=None)


def with_remark(row: Row, remark: str) -> Row:
    """The row with a faint remark over its right end; unchanged where that is too narrow. Its cells are single."""
    keep = sum(len(text) for text, _kind in row) - len(remark)
    if keep < len(remark):
        return row
    pieces: Row = []
    for text, kind in row:
        if keep > 0:
            pieces.append((text[:keep], kind))
        keep -= len(text)
    return [*pieces, (remark, "axis")]


def chart_rows(
    raw: Curve,
    smoothed: Curve,
    marks: Mapping[int, float],
    total: int | None,
    width: int,
    height: int,
    *,
    dotted: bool = False,
) -> list[Row]:
    """The chart as rows of (text, kind); kinds are raw, smoothed, mark, axis and "" for plain. `dotted`: the raw loss
    differs by its dots, where there are no colours."""
    if not legible(width, height):
        return []
    legend = legend_row(raw, smoothed, marks, width)
    newest = newest_step(raw, smoothed, marks)
    if newest is None:
        return [[(_("No loss yet. The chart starts with the first step."), "axis")]]
    columns, rows = width - 8, height - 2
    across = step_scale(newest, total, columns)
    width_of_dot = math.ceil(across.high / (columns * 2))  # so that new steps change the last dots only
    points, smooth = raw.points(width_of_dot), smoothed.points(width_of_dot)
    latest = {step // (8 * width_of_dot): (step, marks[step]) for step in sorted(marks)}  # the last in four columns
    up = loss_scale(points, smooth, (loss for _step, loss in latest.values()))
    faint, bright = Canvas(columns, rows), Canvas(columns, rows)
    _trace(faint, points, across, up, extent=not dotted, dashes=(1, 2) if dotted else (1, 0))
    _trace(bright, smooth, across, up, extent=False)
    spots = {
        (across.at(step, columns * 2) // 2, rows - 1 - up.at(loss, rows * 4) // 4): symbols().mark
        for step, loss in latest.values()
    }
    body = [_row(y, faint, bright, spots) for y in range(rows)]
    return [legend, *labelled(body, up, rows), step_labels(across, columns)]


class Canvas:
    """Dots in braille cells, two by four each; dot (0, 0) is at the lower left."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.cells = [bytearray(columns) for _ in range(rows)]

    def column(self, x: int, low: int, high: int) -> None:
        """Dots from `low` to `high` in the dot column `x`."""
        for y in range(low, high + 1):
            self.cells[self.rows - 1 - y // 4][x // 2] |= _DOTS[x % 2][3 - y % 4]

    def line(self, x0: int, y0: int, x1: int, y1: int, dashes: tuple[int, int] = (1, 0)) -> None:
        """A line from left to right; `dashes`: how many columns of dots are drawn, and how many then left out."""
        before = y0
        for x in range(x0, x1 + 1):
            y = y1 if x1 == x0 else round(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
            if x % sum(dashes) < dashes[0]:
                self.column(x, min(before, y), max(before, y))
            before = y


def _trace(
    canvas: Canvas,
    points: Sequence[Bin],
    across: Scale,
    up: Scale,
    *,
    extent: bool,
    dashes: tuple[int, int] = (1, 0),
) -> None:
    before: tuple[int, int] | None = None
    width, height = canvas.columns * 2, canvas.rows * 4
    for point in points:
        x, y = across.at(point.step, width), up.at(point.last, height)
        if extent:
            canvas.column(x, up.at(point.low, height), up.at(point.high, height))
        canvas.line(*(before or (x, y)), x, y, dashes)
        before = (x, y)


def _row(y: int, faint: Canvas, bright: Canvas, spots: Mapping[tuple[int, int], str]) -> Row:
    """One row of cells, equal kinds joined. The smoothed line hides the raw one where they share a cell."""
    pieces: Row = []
    marks = symbols()
    for x in range(faint.columns):
        if (x, y) in spots:
            text, kind = spots[x, y], "mark"
        elif bright.cells[y][x]:
            text, kind = marks.cell(bright.cells[y][x]), "smoothed"
        elif faint.cells[y][x]:
            text, kind = "." if marks.ascii else marks.cell(faint.cells[y][x]), "raw"
        else:
            text, kind = " ", ""
        if pieces and pieces[-1][1] == kind:
            pieces[-1] = (pieces[-1][0] + text, kind)
        else:
            pieces.append((text, kind))
    return pieces


def legend_row(raw: Curve, smoothed: Curve, marks: Mapping[int, float], width: int) -> Row:
    """The legend with the newest numbers; what does not fit is left out."""
    signs = symbols()
    parts = [(_("Loss"), "")]
    if smoothed.last:
        parts.append((f"{signs.smoothed} " + _("smoothed {0:.4f}").format(smoothed.last.last), "smoothed"))
    if raw.last:
        parts.append((f"{signs.raw} " + _("raw {0:.4f}").format(raw.last.last), "raw"))
    if marks:
        step = max(marks)
        words = _("validation {0:.4f}").format(marks[step])
        where = _(" (step {0})").format(step)
        used = sum(cell_len(text) + 3 for text, _kind in parts)
        fits = used + cell_len(f"{signs.mark} {words}{where}") <= width
        parts.append((f"{signs.mark} {words}{where if fits else ''}", "mark"))
    row: Row = []
    used = 0
    for text, kind in parts:
        if used + cell_len(text) > width:
            break
        row += [(text, kind), ("   ", "")]
        used += cell_len(text) + 3
    return row


def labelled(body: list[Row], up: Scale, rows: int) -> list[Row]:
    """The rows with the labels of the upright axis before them, 8 cells wide."""
    signs = symbols()
    labels = {row: tick_text(tick, up.tick) for row, tick in labelled_ticks(up, rows).items()}
    edges = [f"{labels.get(y, ''):>6} {signs.tick if y in labels else signs.edge}" for y in range(len(body))]
    return [[(edge, "axis"), *pieces] for edge, pieces in zip(edges, body, strict=True)]


def labelled_ticks(up: Scale, rows: int) -> dict[int, float]:
    """Row to value: all ticks or every second, third …, where equal distances look equal; else the first and last."""
    ticks = up.ticks()
    strides = [ticks[::stride] for stride in range(1, len(ticks) // 2 + 1)]
    for labels in [*(labels for labels in strides if len(labels) > 2), [ticks[0], ticks[-1]]]:
        places = [rows - 1 - up.at(tick, rows * 4) // 4 for tick in labels]
        gaps = [below - above for below, above in pairwise(places)]
        if len(labels) == 2 or min(gaps) == max(gaps) > 0 or (min(gaps) > 1 and max(gaps) == min(gaps) + 1):
            break
    return dict(zip(places, labels, strict=True))


def step_labels(across: Scale, columns: int) -> Row:
    """The row below: the labels of the steps."""
    line = [" "] * columns
    free = 0
    for tick in across.ticks():
        text = step_text(tick)
        start = min(columns - len(text), max(0, across.at(tick, columns) - len(text) // 2))
        if start >= free:
            line[start : start + len(text)] = text
            free = start + len(text) + 2
    word = _("step")
    return [(" " * (6 - cell_len(word)) + f"{word} {symbols().corner}" + "".join(line), "axis")]
