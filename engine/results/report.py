"""The report of a run as one HTML page: recommendation, verdicts, samples, curves, settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.html_page import page
from engine.html_page.page import WrittenPage
from engine.html_page.place import RESULTS
from engine.results.charts import run_charts
from engine.results.columns import COLUMNS, SIGNS, measured_columns
from engine.results.dataset_summary import summarise
from engine.results.embedded import Embedder
from engine.results.grid import SampleGrid, image_count, run_grid
from engine.results.of_run import lora_of_run
from engine.results.record import RunRecord
from engine.results.settings import all_settings, base_config, changed_settings
from engine.results.similarity import TITLES
from engine.results.use_file import strength_of
from engine.results.what_now import Use, uses
from engine.runs.state import moment
from engine.text import duration, plural, printable

MOST_FILES = 400

_TEMPLATE = Path(__file__).parent / "assets" / "report.html"


def write_report(run: RunRecord, path: Path) -> WrittenPage:
    """Write the page.

    Raises:
        StorageError: no space or no permission.
    """
    embedder = Embedder(image_count([run]))
    grid = run_grid(run, embedder)
    notes = image_notes([grid], embedder)
    size = page.write(path, _render(run, grid, notes))
    return WrittenPage(path, size, embedder.count, tuple(notes))


def image_notes(grids: list[SampleGrid], embedder: Embedder) -> list[str]:
    """The samples that are not in a page, as sentences."""
    notes = []
    steps, prompts = sum(grid.steps for grid in grids), sum(grid.prompts for grid in grids)
    columns, rows = sum(len(grid.columns) for grid in grids), sum(len(grid.rows) for grid in grids)
    if columns < steps or rows < prompts:
        notes.append(f"{columns} of {plural(steps, 'step')} and {rows} of {plural(prompts, 'prompt')} are shown.")
    if embedder.broken:
        notes.append(f"{plural(embedder.broken, 'sample')} cannot be read.")
    if embedder.left_out:
        notes.append(f"{plural(embedder.left_out, 'sample')} did not fit into the page.")
    return notes


def _render(run: RunRecord, grid: SampleGrid, notes: list[str]) -> str:
    assessment = run.assessment
    base = base_config(run.preset)
    files = assessment.files[-MOST_FILES:]
    return page.render(
        _TEMPLATE,
        RESULTS,
        run=run,
        facts=heading_facts(run),
        files=files,
        files_left_out=len(assessment.files) - len(files),
        best=assessment.best,
        uses=how_to_use(run),
        why=assessment.why,
        advice=assessment.advice,
        columns=measured_columns(judged.measures for judged in files),
        all_columns=COLUMNS,
        signs=SIGNS,
        grid=grid,
        notes=notes,
        charts=run_charts(run),
        compared_with=f"the preset {run.preset}" if run.preset else "the defaults",
        changed=changed_settings(run.config, base) if run.config else [],
        settings=all_settings(run.config) if run.config else [],
        dataset=summarise(run.run_dir, [judged.file for judged in assessment.files]),
        warnings=run.warnings,
        similarity=run.similarity,
        similarity_titles=TITLES,
    )


def how_to_use(run: RunRecord) -> list[Use]:
    """How to use the recommended file in each program; empty without one, or without the run's settings."""
    best = run.assessment.best
    if best is None or run.config is None:
        return []
    return uses(replace(lora_of_run(run.run_dir, best.file.path), strength=strength_of(best)))


def heading_facts(run: RunRecord) -> list[tuple[str, str]]:
    """(title, value) rows below the name of a run."""
    history = run.history
    total = history.max_train_steps or run.state.max_train_steps
    steps = f"{history.step} of {total}" if total else str(history.step)
    model = run.config.model.pretrained_model_name_or_path if run.config else ""
    facts = [
        ("Model", printable(model.rstrip("/").rpartition("/")[2] or "unknown")),
        ("Trigger", run.trigger or "unknown"),
        ("State", run.state.state),
        ("Steps", steps),
        ("Epochs", str(history.epoch or run.state.epoch)),
        ("Time", duration(run.seconds)),
        *memory_facts(run),
    ]
    if run.state.updated is not None:
        facts.append(("Last seen", moment(run.state.updated)))
    return facts


def memory_facts(run: RunRecord) -> list[tuple[str, str]]:
    """The most memory that the trainer used: VRAM where there was a GPU."""
    names = (("peak_gib", "VRAM, peak"), ("resident_gib", "Memory, peak"))
    return [(title, f"{run.memory[key]:.1f} GiB") for key, title in names if key in run.memory][:1]
