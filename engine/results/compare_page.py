"""A comparison of runs as one HTML page, made of the report's parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.html_page import page
from engine.html_page.page import WrittenPage
from engine.html_page.place import RESULTS
from engine.results.charts import validation_chart
from engine.results.columns import COLUMNS, SIGNS, measured_columns
from engine.results.comparison import Comparison
from engine.results.embedded import Embedder
from engine.results.grid import MOST_PROMPTS, GridColumn, GridRow, SampleGrid, column
from engine.results.record import RunRecord
from engine.results.report import heading_facts, image_notes
from engine.results.settings import homeless

_TEMPLATE = Path(__file__).parent / "assets" / "compare.html"


@dataclass(frozen=True)
class _ImageColumn:
    """A column of the grid: the run, and which of its images."""

    run: int
    kind: str
    """A field of `PromptImages`."""
    heading: GridColumn


def write_comparison(comparison: Comparison, path: Path) -> WrittenPage:
    """Write the page.

    Raises:
        StorageError: no space or no permission.
    """
    columns = _columns(comparison)
    embedder = Embedder(len(columns) * min(MOST_PROMPTS, len(comparison.prompts)))
    grid = _grid(comparison, columns, embedder)
    notes = image_notes([grid], embedder)
    best = [run.assessment.best.measures for run in comparison.runs if run.assessment.best]
    text = page.render(
        _TEMPLATE,
        RESULTS,
        title=" and ".join(dict.fromkeys(comparison.labels)),
        runs=[_run(comparison, place, run) for place, run in enumerate(comparison.runs)],
        labels=comparison.labels,
        settings=comparison.settings,
        chart=validation_chart(
            {label: run.measures for label, run in zip(comparison.labels, comparison.runs, strict=True)}
        ),
        loss_remark=comparison.loss_remark(),
        columns=measured_columns(best),
        all_columns=COLUMNS,
        signs=SIGNS,
        grid=grid,
        notes=notes,
    )
    return WrittenPage(path, page.write(path, text), embedder.count, tuple(notes))


def _run(comparison: Comparison, place: int, run: RunRecord) -> dict[str, object]:
    return {
        "letter": comparison.letters[place],
        "name": run.name,
        "path": homeless(run.run_dir.path),
        "facts": heading_facts(run),
        "best": run.assessment.best,
        "why": run.assessment.why,
        "trouble": run.trouble,
    }


def _columns(comparison: Comparison) -> list[_ImageColumn]:
    """The base once, then of each run the recommended step and the last one."""
    columns = []
    base = next(
        (place for place in range(len(comparison.runs)) if any(
            (images := matched.runs[place]) is not None and images.base is not None for matched in comparison.prompts
        )), None,
    )  # fmt: skip
    if base is not None:
        columns.append(_ImageColumn(base, "base", GridColumn("base", "untouched")))
    for place, run in enumerate(comparison.runs):
        best, steps = comparison.best_steps()[place], run.samples.steps
        last = steps[-1] if steps else None
        for kind, step in (("best", best), ("last", last if last != best else None)):
            if step is not None:
                heading = column(run, step, best=kind == "best")
                title = f"{comparison.letters[place]} {heading.title}"
                columns.append(
                    _ImageColumn(place, kind, GridColumn(title, heading.detail, heading.verdict, heading.best))
                )
    return columns


def _grid(comparison: Comparison, columns: list[_ImageColumn], embedder: Embedder) -> SampleGrid:
    rows = []
    for matched in comparison.prompts[:MOST_PROMPTS]:
        paths = [getattr(matched.runs[column.run], column.kind, None) for column in columns]
        if columns and columns[0].kind == "base" and paths[0] is None:  # another run may have the base's image
            paths[0] = next((images.base for images in matched.runs if images and images.base), None)
        rows.append(GridRow(matched.prompt, matched.seed, tuple(map(embedder.embed, paths))))
    headings = tuple(column.heading for column in columns)
    return SampleGrid(headings, tuple(rows), len(columns), len(comparison.prompts))
