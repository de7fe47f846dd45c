"""The contact sheet: a run's samples in one picture, a row for each prompt, a column for each step."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from engine.atomic import replacing
from engine.dataset.decoding import UnusablePicture, opened
from engine.runs.events import Event
from engine.runs.layout import RunDir, own_file

TILE = 192
"""Pixels of a tile's longer side."""
COLUMNS = 8
LABELS = 200
HEAD = 30
GAP = 6
MAX_PIXELS = 2**26
"""Of a sample; a run draws far fewer."""
PAPER, INK = (250, 250, 248), (30, 30, 30)
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Samples:
    """The pictures of a run by prompt and step; a picture that is gone is left out."""

    prompts: dict[int, str]
    pictures: dict[tuple[int, int], Path]
    """(prompt's index, step) to file."""

    @property
    def steps(self) -> list[int]:
        """Every step that has a picture, in order."""
        return sorted({step for _, step in self.pictures})

    def shown_steps(self, limit: int = COLUMNS) -> list[int]:
        """At most `limit` of the steps, evenly, first and last among them."""
        steps = self.steps
        if len(steps) <= limit:
            return steps
        return [steps[round(index * (len(steps) - 1) / (limit - 1))] for index in range(limit)]


def collect(events: Sequence[Event], run_dir: RunDir) -> Samples:
    """The samples of a run that its events name; of two for one prompt and step the later one."""
    prompts: dict[int, str] = {}
    pictures: dict[tuple[int, int], Path] = {}
    for event in events:
        if event.type == "sample" and (path := own_file(run_dir.samples, event.get("path", ""))):
            index, step = event.get("index", 0), event.get("step", 0)
            prompts[index] = event.get("prompt", "")
            pictures[index, step] = path
    return Samples(prompts, pictures)


def sheet_path(run_dir: RunDir) -> Path:
    """Where the sheet of a run goes."""
    return run_dir.samples / f"{run_dir.name}_sheet.png"


def write_sheet(samples: Samples, path: Path) -> Path | None:
    """Draw the contact sheet into `path`; None when there is nothing to show.

    Raises:
        StorageError: it cannot be written.
    """
    if not samples.pictures:
        return None
    steps, rows = samples.shown_steps(), sorted(samples.prompts)
    sheet = Image.new("RGB", (LABELS + len(steps) * (TILE + GAP) + GAP, HEAD + len(rows) * (TILE + GAP) + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, step in enumerate(steps):
        label = "before" if step == 0 else f"step {step}"
        draw.text((LABELS + column * (TILE + GAP) + 4, 7), label, fill=INK, font=font)
    for row, index in enumerate(rows):
        top = HEAD + row * (TILE + GAP)
        _write_prompt(draw, font, samples.prompts[index], top)
        for column, step in enumerate(steps):
            if (index, step) in samples.pictures:
                with suppress(UnusablePicture):  # damaged since it was drawn: its place stays empty
                    sheet.paste(_tile(samples.pictures[index, step]), (LABELS + column * (TILE + GAP), top))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
    return path


def _write_prompt(draw: ImageDraw.ImageDraw, font: _Font, prompt: str, top: int) -> None:
    lines = textwrap.wrap(prompt or "(no prompt)", 24)
    shown = lines if len(lines) <= 9 else [*lines[:8], "..."]
    draw.multiline_text((8, top + 4), "\n".join(shown), fill=INK, font=font, spacing=4)


def _tile(path: Path) -> Image.Image:
    with opened(path, MAX_PIXELS) as (_, sample):
        picture = sample.convert("RGB")
    scale = TILE / max(picture.size)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
