"""Text cut to the cells of a terminal."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size


def clipped(text: str, width: int, *, keep_end: bool = False) -> str:
    """`text` in at most `width` cells; an ellipsis replaces what is cut off, at the end or at the beginning."""
    if cell_len(text) <= width:
        return text
    if keep_end:
        return "…" + set_cell_size(text[::-1], max(0, width - 1))[::-1].lstrip()
    return set_cell_size(text, max(0, width - 1)).rstrip() + "…"
