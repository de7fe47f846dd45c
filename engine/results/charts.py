"""Curves as the geometry of an SVG: what a template needs to draw one, all of it numbers and short texts.

Lines differ by colour, by dashes and by the shape of their marks, so that none of these alone is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engine.results.columns import COLUMNS
from engine.results.embedded import pick_evenly
from engine.results.measures import BURN, Measures
from engine.results.record import RunRecord
from engine.runs.curve import Bin, Curve
from engine.runs.scales import Scale, loss_scale, nice, step_text, tick_text

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 10, 26
_BINS = 240
"""Points that a line has at most."""
_MARKS = 400
"""Measurements that are shown of a line at most."""
_BANDS = 60
"""Bins of a band: each holds several steps, so that it has a width."""
_SIZE = 4.5
"""Half the width of a mark."""


@dataclass(frozen=True)
class Line:
    """A named line, and how it is drawn."""

    name: str
    points: tuple[tuple[float, float], ...]
    """(step, value), in order."""
    marked: bool = True
    """Each point is a measurement and has a mark with its value as a tooltip."""
    style: int = 0
    """Colour, dashes and mark: 0, 1, 2, …"""


@dataclass(frozen=True)
class Mark:
    """A measurement: the outline of its mark, and its tooltip."""

    path: str
    label: str


@dataclass(frozen=True)
class PlottedLine:
    """A line in the coordinates of the drawing."""

    name: str
    style: int
    path: str
    marks: tuple[Mark, ...]
    sample: str
    """The mark at (0, 0), for the legend."""


@dataclass(frozen=True)
class Chart:
    """A chart of `WIDTH` × `HEIGHT`."""

    id: str
    title: str
    note: str
    """How to read it."""
    described: str
    """The same for those who do not see it: the ends and the minimum of each line."""
    lines: tuple[PlottedLine, ...]
    band: str
    """A path around the lowest and highest values; empty without one."""
    band_name: str
    across: tuple[tuple[float, str], ...]
    """(x, label)"""
    up: tuple[tuple[float, str], ...]
    rule: float | None = None
    """x of the recommended file."""


def make_chart(
    id: str,
    title: str,
    note: str,
    lines: Sequence[Line],
    *,
    band: Sequence[Bin] = (),
    band_name: str = "",
    rule: int | None = None,
    last_step: int = 0,
) -> Chart | None:
    """The chart of some lines; None where there is nothing to draw.

    Args:
        band: lows and highs by step, drawn behind the lines; rare peaks are cut off.
        rule: a step that a vertical line marks.
        last_step: the end of the run: the axis is at least so long.
    """
    lines = [_bounded(line) for line in lines if line.points]
    steps = [step for line in lines for step, _ in line.points] + [step_bin.step for step_bin in band]
    if not steps:
        return None
    across = _across(max(*steps, last_step, 1))
    up = loss_scale(band, (), [value for line in lines for _, value in line.points])
    plotted = tuple(_plotted(line, across, up) for line in lines)
    described = " ".join(_described(line) for line in lines)
    return Chart(
        id, title, note, described, plotted, _band(band, across, up), band_name,
        tuple((_x(tick, across), step_text(tick)) for tick in across.ticks()),
        tuple((_y(tick, up), tick_text(tick, up.tick)) for tick in up.ticks()),
        None if rule is None else _x(rule, across),
    )  # fmt: skip


def run_charts(run: RunRecord) -> list[Chart]:
    """Every curve of a run that has values."""
    history, measures = run.history, run.measures
    last = max(history.step, history.max_train_steps or 0)
    width = max(1, -(-last // _BINS))
    raw, smoothed = history.raw.points(max(1, -(-last // _BANDS))), history.smoothed.points(width)
    smooth = Line("smoothed", tuple((step_bin.step, step_bin.last) for step_bin in smoothed), marked=False)
    rule = run.best_step
    charts = [
        make_chart("validation", "Validation loss", "At fixed timesteps and noise, so that values can be compared. The "
                   "lowest point of the validation line is where the LoRA does best on images that it never saw.",
                   [_line("validation images", measures, "validation_loss"),
                    replace(_line("training images", measures, "train_loss"), style=1)], rule=rule, last_step=last),
        make_chart("training", "Training loss", "At random timesteps: it shows whether the training is sound, not "
                   "which file is best.", [smooth], band=raw, band_name="lowest to highest", rule=rule, last_step=last),
        make_chart("bands", "Validation loss by timestep", "High timesteps are mostly noise and decide the composition,"
                   " low ones the detail.", _bands(measures), rule=rule, last_step=last),
        *_measure_charts(measures, rule, last),
        make_chart("rates", "Learning rate", _rates_note(run),
                   [Line(name, _thinned(curve, width), marked=False, style=place)
                    for place, (name, curve) in enumerate(run.rates.items())], rule=rule, last_step=last),
    ]  # fmt: skip
    return [chart for chart in charts if chart is not None]


def _rates_note(run: RunRecord) -> str:
    if not run.other_groups:
        return "By parameter group."
    return (
        f"By parameter group; {run.other_groups} more groups are not drawn. The rates of all are in events.jsonl (lr) "
        "and in the loggers."
    )


def _measure_charts(measures: Sequence[Measures], rule: int | None, last: int) -> list[Chart | None]:
    """The measures that are worth a curve, those of the same kind in one chart."""
    groups = (
        ("gains", "Learned and gap", "Shares: 0.5 is half of the base model's loss gone.", ("learned", "gap")),
        ("spread", "Bleed, leakage and shift", "How far predictions moved, for prompts without the trigger and at all.",
         ("bleed", "leakage", "shift")),
        ("listening", "Prompt response", "1 is as in the base model.", ("response",)),
        ("burn", "Burn", "1 is like base samples and training images.", BURN),
        ("copying", "Copying", "0 as two training images are to each other, 1 a copy.",
         ("copying", "latent_copying", "latent_base")),
    )  # fmt: skip
    titles = {column.name: column for column in COLUMNS}
    return [
        make_chart(id, title, note, [
            Line(titles[name].title, tuple(
                (entry.step, value) for entry in measures if (value := titles[name].value(entry)) is not None
            ), style=place) for place, name in enumerate(names)
        ], rule=rule, last_step=last) for id, title, note, names in groups
    ]  # fmt: skip


def _bands(measures: Sequence[Measures]) -> list[Line]:
    """A line for each timestep, at most six, the lowest and the highest among them."""
    timesteps = sorted({timestep for entry in measures for timestep in entry.validation_bands})
    return [
        Line(f"timestep {timestep}", tuple(
            (entry.step, entry.validation_bands[timestep]) for entry in measures if timestep in entry.validation_bands
        ), style=place) for place, timestep in enumerate(pick_evenly(timesteps, 6))
    ]  # fmt: skip


def _bounded(line: Line) -> Line:
    """At most `_MARKS` points, evenly, the lowest among them."""
    lowest = min(range(len(line.points)), key=lambda place: line.points[place][1])
    kept = pick_evenly(range(len(line.points)), _MARKS, [lowest])
    return replace(line, points=tuple(line.points[place] for place in kept))


def _line(name: str, measures: Sequence[Measures], field: str) -> Line:
    values = ((entry.step, getattr(entry, field)) for entry in measures)
    return Line(name, tuple((step, value) for step, value in values if value is not None))


def validation_chart(runs: Mapping[str, Sequence[Measures]]) -> Chart | None:
    """The validation losses of several runs over each other, by the runs' names."""
    lines = [
        replace(_line(name, measures, "validation_loss"), style=place)
        for place, (name, measures) in enumerate(runs.items())
    ]
    note = (
        "Images that were set aside, at fixed timesteps and noise. Runs with other validation images or another base "
    )
    note += "model are not comparable by it."
    return make_chart("validation", "Validation loss", note, lines)


def _thinned(curve: Curve, width: int) -> tuple[tuple[float, float], ...]:
    return tuple((step_bin.step, step_bin.last) for step_bin in curve.points(width))


def _across(last: float) -> Scale:
    return Scale(0, last, max(1, nice(last / 8)))


def _x(step: float, across: Scale) -> float:
    return round(LEFT + across.share(step) * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float, up: Scale) -> float:
    return round(HEIGHT - BOTTOM - up.share(value) * (HEIGHT - TOP - BOTTOM), 1)


def _plotted(line: Line, across: Scale, up: Scale) -> PlottedLine:
    spots = [(_x(step, across), _y(value, up)) for step, value in line.points]
    marks = tuple(
        Mark(mark_path(line.style, x, y), f"{line.name}, step {step:g}: {value:.4g}")
        for (x, y), (step, value) in zip(spots, line.points, strict=True)
    ) if line.marked else ()  # fmt: skip
    return PlottedLine(line.name, line.style, _path(spots), marks, mark_path(line.style, 0, 0) if line.marked else "")


def _path(spots: Sequence[tuple[float, float]]) -> str:
    return "".join(f"{'L' if place else 'M'}{x:g} {y:g}" for place, (x, y) in enumerate(spots))


def mark_path(style: int, x: float, y: float) -> str:
    """A circle, square, diamond, or triangle around (x, y)."""
    r = _SIZE
    shapes = (
        f"M{x - r:g} {y:g}a{r} {r} 0 1 0 {2 * r:g} 0a{r} {r} 0 1 0 {-2 * r:g} 0Z",
        f"M{x - r * 0.85:g} {y - r * 0.85:g}h{r * 1.7:g}v{r * 1.7:g}h{-r * 1.7:g}Z",
        f"M{x:g} {y - r * 1.2:g}l{r * 1.2:g} {r * 1.2:g}l{-r * 1.2:g} {r * 1.2:g}l{-r * 1.2:g} {-r * 1.2:g}Z",
        f"M{x:g} {y - r * 1.1:g}l{r * 1.1:g} {r * 2:g}h{-r * 2.2:g}Z",
    )
    return shapes[style % len(shapes)]


def _band(band: Sequence[Bin], across: Scale, up: Scale) -> str:
    if len(band) < 2:
        return ""
    highs = [(_x(step_bin.step, across), _y(step_bin.high, up)) for step_bin in band]
    lows = [(_x(step_bin.step, across), _y(step_bin.low, up)) for step_bin in reversed(band)]
    return f"{_path([*highs, *lows])}Z"


def _described(line: Line) -> str:
    (first, begin), (last, end) = line.points[0], line.points[-1]
    low = min(line.points, key=lambda point: point[1])
    return (
        f"{line.name}: {begin:.4g} at step {first:g}, lowest {low[1]:.4g} at step {low[0]:g}, "
        f"{end:.4g} at step {last:g}."
    )
