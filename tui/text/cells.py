"""Text cut to the cells of a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len, chop_cells, set_cell_size

from tui.display.symbols import symbols


def clipped(text: str, width: int, *, keep_end: bool = False) -> str:
    """`text` in at most `width` cells; an ellipsis replaces what is cut off, at the end or at the beginning."""
    if cell_len(text) <= width:
        return text
    if keep_end:
        return "…" + set_cell_size(text[::-1], max(0, width - 1))[::-1].lstrip()
    return set_cell_size(text, max(0, width - 1)).rstrip() + "…"


def sparkline(values: Sequence[float]) -> str:
    """A curve of one cell a value; the highest is a full one. Values that are not finite are gaps."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    levels = symbols().levels
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(levels[round((value - low) * scale)] if math.isfinite(value) else " " for value in values)


def hanging(text: str, width: int, further: int = 2) -> list[str]:
    """A line in rows of at most `width` cells; those after the first are indented by `further` more than it."""
    indent = " " * (len(text) - len(text.lstrip(" ")))
    margin = indent + " " * further
    if cell_len(text) <= width or width <= len(margin) + 1:
        return [text]
    rows, row = [], indent
    for number, word in enumerate(text[len(indent) :].split(" ")):
        longer = f"{row} {word}" if number else row + word
        if cell_len(longer) <= width:
            row = longer
            continue
        if row.strip():
            rows.append(row)
            row = margin
        *full, word = chop_cells(word, width - len(margin)) or [""]
        rows += [row + part for part in full[:1]] + [margin + part for part in full[1:]]
        row = (margin if full else row) + word
    return [*rows, row]
