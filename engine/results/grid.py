"""The samples of a run, or of several, as a table of embedded images: a row for each prompt, the base model first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.html_page.page import EmbeddedImage
from engine.results.columns import SIGNS
from engine.results.embedded import Embedder, pick_evenly
from engine.results.record import RunRecord, sample_seed
from engine.results.verdict import JudgedFile

MOST_STEPS = 24
MOST_PROMPTS = 16


@dataclass(frozen=True)
class GridColumn:
    """The samples of one step."""

    title: str
    """"base", "step 96"."""
    detail: str = ""
    """"epoch 6"."""
    verdict: str = ""
    """The verdict; empty if no file was saved at this step."""
    best: bool = False
    """The recommended file."""

    @property
    def sign(self) -> str:
        """The sign of the verdict."""
        return SIGNS.get(self.verdict, "")


@dataclass(frozen=True)
class GridRow:
    """A prompt and its images, None where one is missing."""

    prompt: str
    seed: int | None
    images: tuple[EmbeddedImage | None, ...]


@dataclass(frozen=True)
class SampleGrid:
    """The table, and the number of samples that there are."""

    columns: tuple[GridColumn, ...]
    rows: tuple[GridRow, ...]
    steps: int
    """How many steps have samples."""
    prompts: int

    @property
    def has_base(self) -> bool:
        """Whether the first column is the base model's."""
        return bool(self.columns) and self.columns[0].title == "base"

    @property
    def start(self) -> int:
        """The column that is selected first: the recommended one, else the last."""
        return next((place for place, column in enumerate(self.columns) if column.best), len(self.columns) - 1)


def grid_steps(run: RunRecord) -> list[int]:
    """The steps whose samples are shown: first, recommended, last, and others evenly."""
    return pick_evenly(run.samples.steps, MOST_STEPS, [sample_step(run, run.best_step)])


def sample_step(run: RunRecord, step: int | None) -> int | None:
    """The newest step with samples up to `step`; None if there is none, or no `step`."""
    return max((at for at in run.samples.steps if step is not None and at <= step), default=None)


def run_grid(run: RunRecord, embedder: Embedder) -> SampleGrid:
    """All prompts of a run at its steps."""
    steps, prompts = grid_steps(run), sorted(run.samples.prompts)
    best = sample_step(run, run.best_step)
    columns = tuple(column(run, step, best=step == best) for step in steps)
    rows = tuple(
        GridRow(
            run.samples.prompts[index],
            prompt_seed(run, index),
            tuple(embedder.embed(run.samples.images.get((index, step))) for step in steps),
        )
        for index in prompts[:MOST_PROMPTS]
    )
    return SampleGrid(columns, rows, len(run.samples.steps), len(prompts))


def column(run: RunRecord, step: int, *, best: bool = False) -> GridColumn:
    """The heading of a step."""
    judged = file_at(run, step)
    epoch = judged.file.epoch if judged else None
    return GridColumn(
        "base" if step == 0 else f"step {step}",
        f"epoch {epoch}" if epoch is not None else "",
        judged.verdict.kind if judged else "",
        best,
    )


def file_at(run: RunRecord, step: int) -> JudgedFile | None:
    """The file that was saved at a step."""
    return next((judged for judged in run.assessment.files if judged.file.step == step), None)


def prompt_seed(run: RunRecord, index: int) -> int | None:
    """The seed of all samples of a prompt; None if they differ, or were not fixed."""
    seeds = {sample_seed(path) for (prompt, _), path in run.samples.images.items() if prompt == index}
    return seeds.pop() if len(seeds) == 1 else None


def image_count(runs: Sequence[RunRecord]) -> int:
    """The most images that the grids of these runs can have."""
    return sum(len(grid_steps(run)) * min(MOST_PROMPTS, len(run.samples.prompts)) for run in runs)
