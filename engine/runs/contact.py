"""The contact sheet: a run's samples in one image, a row for each prompt, a column for the base and for each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.reading import is_regular
from engine.runs.events import Event, SampleEvent
from engine.runs.grid import Grid, write_grid
from engine.runs.layout import RunDir, own_file

COLUMNS = 8
BASE = "base"
"""Label of the samples without the LoRA: those of step 0."""


@dataclass(frozen=True)
class Samples:
    """The images of a run by prompt and step; a deleted image is left out."""

    prompts: dict[int, str]
    images: dict[tuple[int, int], Path]
    """(prompt's index, step) to file."""

    @property
    def steps(self) -> list[int]:
        """Every step that has an image, in order."""
        return sorted({step for _, step in self.images})

    def sheet_steps(self, limit: int = COLUMNS) -> list[int]:
        """At most `limit` of the steps, evenly spaced, with the first and the last."""
        steps = self.steps
        if len(steps) <= limit:
            return steps
        return [steps[round(index * (len(steps) - 1) / (limit - 1))] for index in range(limit)]


def collect(events: Sequence[Event], run_dir: RunDir) -> Samples:
    """The samples of a run from its events; of two for one prompt and step the later one."""
    prompts: dict[int, str] = {}
    images: dict[tuple[int, int], Path] = {}
    for event in events:
        if isinstance(event, SampleEvent) and (path := own_file(run_dir.samples, event.path)):
            index, step = event.index or 0, event.step or 0
            prompts[index] = event.prompt
            images[index, step] = path
    return Samples(prompts, images)


def newest_image(run_dir: RunDir) -> Path | None:
    """The file of a run's newest sample, without its events."""
    sheet, newest = sheet_path(run_dir), (0.0, "")
    try:
        for path in run_dir.samples.iterdir():
            if path.suffix == ".png" and path != sheet and is_regular(path):
                newest = max(newest, (path.stat().st_mtime, path.name))
    except OSError:
        return None
    return run_dir.samples / newest[1] if newest[1] else None


def sheet_path(run_dir: RunDir) -> Path:
    """Where the sheet of a run goes."""
    return run_dir.samples / f"{run_dir.name}_sheet.png"


def write_sheet(samples: Samples, path: Path) -> Path | None:
    """Draw the contact sheet into `path`; None when there is nothing to show.

    Raises:
        StorageError: it cannot be written.
    """
    if not samples.images:
        return None
    steps, prompts = samples.sheet_steps(), sorted(samples.prompts)
    images = {
        (row, column): samples.images[index, step]
        for row, index in enumerate(prompts)
        for column, step in enumerate(steps)
        if (index, step) in samples.images
    }
    labels = [BASE if step == 0 else f"step {step}" for step in steps]
    write_grid(Grid([samples.prompts[index] or "(no prompt)" for index in prompts], labels, images), path)
    return path
