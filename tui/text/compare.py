"""A comparison of runs in words: the tables of `lorasmith compare` and of the screen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len, set_cell_size

from engine.results.columns import NOTHING, SIGNS, measured_columns
from engine.results.comparison import Comparison
from engine.results.record import RunRecord
from engine.results.report import memory_facts
from engine.text import duration, printable
from tui.text.rows import sign
from tui.text.verdict_words import verdict_word
from tui.texts import _

GAP = 2
MOST_STEPS = 16
MOST_LINES = 4
"""Of a cell in a table of the shell."""
MARK = "◂"
"""After the lowest loss of a column."""


def overview_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """(what, value of each run): state, time, memory, best file, verdict, and its measures."""
    runs = comparison.runs
    rows = [
        (_("State"), *(sign(run.state.state) for run in runs)),
        (_("Steps"), *(_("{0} of {1}").format(run.history.step, run.history.max_train_steps or "?") for run in runs)),
        (_("Time"), *(duration(run.seconds) for run in runs)),
    ]
    memory = [dict(memory_facts(run)) for run in runs]
    for name in dict.fromkeys(name for facts in memory for name in facts):
        rows.append((_(name), *(facts.get(name, NOTHING) for facts in memory)))
    rows += [(_("Best file"), *map(best_file, runs)), (_("Verdict"), *map(verdict, runs))]
    for column in measured_columns(best.measures for run in runs if (best := run.assessment.best)):
        values = (column.text(best.measures) if (best := run.assessment.best) else NOTHING for run in runs)
        rows.append((_(column.title), *values))
    return rows


def measure_texts(comparison: Comparison) -> list[tuple[str, str]]:
    """(title, explanation) of each measure that is shown."""
    best = [run.assessment.best.measures for run in comparison.runs if run.assessment.best]
    return [(_(column.title), _(column.explanation)) for column in measured_columns(best)]


def best_file(run: RunRecord) -> str:
    """The recommended file; its step first, since a narrow column cuts the end."""
    best = run.assessment.best
    if best is None:
        return _("none")
    name = printable(best.file.path.name)
    return name if best.file.step is None else _("step {0}: {1}").format(best.file.step, name)


def verdict(run: RunRecord) -> str:
    """The verdict of the recommended file."""
    best = run.assessment.best
    return NOTHING if best is None else f"{SIGNS[best.verdict.kind]} {verdict_word(best.verdict.kind)}"


def setting_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """(title, value of each run) of the settings that differ."""
    return [(_(row.title), *row.values) for row in comparison.settings]


def loss_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """(step, validation loss of each run), the lowest of each run marked; at most `MOST_STEPS`, evenly."""
    losses = comparison.losses()
    lowest = [min(run.history.validation_losses.values(), default=None) for run in comparison.runs]
    if len(losses) > MOST_STEPS:
        kept = {round(place * (len(losses) - 1) / (MOST_STEPS - 1)) for place in range(MOST_STEPS)}
        losses = [
            row for place, row in enumerate(losses)
            if place in kept or any(value is not None and value in lowest for value in row[1])
        ]  # fmt: skip
    return [
        (str(step), *(
            NOTHING if loss is None else f"{loss:.4f}{f' {MARK}' if loss == low else ''}"
            for loss, low in zip(values, lowest, strict=True)
        ))
        for step, values in losses
    ]  # fmt: skip


def shell_lines(comparison: Comparison, width: int) -> Iterator[str]:
    """The whole comparison for a terminal of `width` columns."""
    for label, run in zip(comparison.labels, comparison.runs, strict=True):
        yield f"{label}: {printable(run.run_dir.path)}"
        if run.trouble:
            yield from textwrap.wrap(_("Its configuration cannot be read: {0}").format(printable(run.trouble)), width)
    yield ""
    yield from table(("", *comparison.labels), overview_rows(comparison), width)
    for letter, run in zip(comparison.letters, comparison.runs, strict=True):
        why = " ".join(map(printable, run.assessment.why))
        yield from textwrap.wrap(f"{letter}: {why}", width, subsequent_indent="   ") if why else ()
    yield ""
    yield _("Settings that differ") if comparison.settings else _("No setting differs.")
    yield from table(("", *comparison.letters), setting_rows(comparison), width)
    if comparison.losses():
        yield ""
        yield _("Validation loss by step ({0} lowest)").format(MARK)
        yield from table((_("Step"), *comparison.labels), loss_rows(comparison), width)
        yield from textwrap.wrap(comparison.loss_remark(), width)
    yield ""
    words = _("Prompts with the same seed in two runs: {0}. --html FILE shows their samples side by side.")
    yield from textwrap.wrap(words.format(len(comparison.prompts)), width)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Rows in columns as wide as `width` allows; longer cells take several lines, at most `MOST_LINES`."""
    if not rows:
        return
    cells = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = column_widths([max(cell_len(row[place]) for row in cells) for place in range(len(head))], width)
    for row in cells if any(head) else cells[1:]:
        wrapped = [_wrapped(cell, room) for cell, room in zip(row, widths, strict=True)]
        for line in range(max(map(len, wrapped))):
            pieces = (
                set_cell_size(lines[line] if line < len(lines) else "", room)
                for lines, room in zip(wrapped, widths, strict=True)
            )
            yield (" " * GAP).join(pieces).rstrip()


def column_widths(natural: Sequence[int], width: int) -> list[int]:
    """Cells for each column: its natural width, or, where that is too much, the widest ones reduced equally."""
    room = max(len(natural) * 3, width - GAP * (len(natural) - 1))
    widths = [0] * len(natural)
    places = sorted(range(len(natural)), key=lambda place: natural[place])
    for number, place in enumerate(places):
        widths[place] = max(1, min(natural[place], room // (len(places) - number)))
        room -= widths[place]
    return widths


def _wrapped(text: str, width: int) -> list[str]:
    lines = textwrap.wrap(text, width) or [""]
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1][: width - 1]}…"]
