"""Images side by side in one PNG, with a label for each row and each column."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from engine.atomic import replacing
from engine.dataset.decoding import UnusableImage, opened
from engine.text import plural

TILE = 192
"""Pixels of a tile's longer side."""
LABELS = 200
"""Pixels of the column of row labels."""
HEAD = 30
"""Pixels of the line of column labels, where each takes one line."""
GAP = 6
MOST_COLUMNS, MOST_ROWS = 24, 40
"""Limits of one image; a larger one is too large for viewers."""
MAX_PIXELS = 2**26
"""Of an image in the grid; no generated one has nearly as many."""
PAPER, INK = (250, 250, 248), (30, 30, 30)
_LINE = 19
_LETTERS = 24
"""Letters per line of a label."""
_MOST_LINES = 9
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Grid:
    """The images and their places."""

    rows: Sequence[str]
    """Labels from above."""
    columns: Sequence[str]
    """Labels from the left."""
    images: Mapping[tuple[int, int], Path]
    """(row, column) to file; a missing one leaves its place empty."""

    @property
    def left_out(self) -> str:
        """A sentence on what does not fit into one image; empty where all of it does."""
        more = [
            plural(count - most, noun)
            for count, most, noun in (
                (len(self.columns), MOST_COLUMNS, "column"),
                (len(self.rows), MOST_ROWS, "row"),
            )
            if count > most
        ]
        return f"Not shown for lack of room: {' and '.join(more)}." if more else ""


def write_grid(grid: Grid, path: Path) -> None:
    """Draw the grid into the PNG `path`; what does not fit at the right and below is left out, with a remark.

    Raises:
        StorageError: it cannot be written.
    """
    columns, rows = list(grid.columns)[:MOST_COLUMNS], list(grid.rows)[:MOST_ROWS]
    heads = [_wrapped(label) for label in columns]
    head = HEAD + (max((len(lines) for lines in heads), default=1) - 1) * _LINE
    foot = HEAD if grid.left_out else 0
    size = (LABELS + len(columns) * (TILE + GAP) + GAP, head + len(rows) * (TILE + GAP) + GAP + foot)
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, lines in enumerate(heads):
        _write(draw, font, (LABELS + column * (TILE + GAP) + 4, 7), lines)
    for row, label in enumerate(rows):
        top = head + row * (TILE + GAP)
        _write(draw, font, (8, top + 4), _wrapped(label))
        for column in range(len(columns)):
            if (row, column) in grid.images:
                with suppress(UnusableImage):  # damaged since: its place stays empty
                    sheet.paste(_tile(grid.images[row, column]), (LABELS + column * (TILE + GAP), top))
    if foot:
        _write(draw, font, (8, size[1] - foot + 4), [grid.left_out])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


def _write(draw: ImageDraw.ImageDraw, font: _Font, at: tuple[int, int], lines: Sequence[str]) -> None:
    draw.multiline_text(at, "\n".join(lines), fill=INK, font=font, spacing=4)


def _wrapped(label: str) -> list[str]:
    lines = [line for part in label.split("\n") for line in textwrap.wrap(part, _LETTERS)]
    return lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], "..."]


def _tile(path: Path) -> Image.Image:
    with opened(path, MAX_PIXELS) as (_, sample):
        image = sample.convert("RGB")
    scale = TILE / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
