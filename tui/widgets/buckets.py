"""How many images go into which aspect bucket, as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.widgets import Static

from engine.text import plural
from tui.display.symbols import symbols
from tui.texts import _

Size = tuple[int, int]
ROWS = 8
"""Bars at most; the smallest buckets are summed up in one line."""
_EIGHTHS = " ▏▎▍▌▋▊▉"


class BucketChart(Static, can_focus=True):
    """Bars with the bucket's size in px before, and the number of images after them."""

    DEFAULT_CSS = "BucketChart { height: auto; color: $accent; }"
    HELP: ClassVar[str] = _(
        "**Buckets.** Images of different shapes are trained at different sizes of about the same area. Each bar "
        "is one size in px, with its number of images. Many sizes with few images each cause "
        "batches that are not full."
    )

    def __init__(self, counts: Mapping[Size, int] | None = None, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self.counts: Mapping[Size, int] = counts or {}

    def show(self, counts: Mapping[Size, int]) -> None:
        """Draw these counts: (width, height) in px to images."""
        self.counts = counts
        self.refresh(layout=True)

    def render(self) -> Text:
        """Widest shape last."""
        return Text("\n".join(bars(self.counts, self.content_size.width or 40)), no_wrap=True)


def bars(counts: Mapping[Size, int], width: int, rows: int = ROWS) -> Sequence[str]:
    """Lines of at most `width` cells, tall shapes first; no more than `rows` and one for the rest."""
    largest = sorted(counts, key=lambda size: (-counts[size], size))[:rows]
    sizes = sorted(largest, key=lambda size: (size[0] / size[1], size))
    if not sizes:
        return []
    labels = [f"{side[0]}×{side[1]} px" for side in sizes]
    numbers = [str(counts[size]) for size in sizes]
    before, after = max(map(cell_len, labels)), max(map(cell_len, numbers))
    room = max(1, width - before - after - 2)
    most = max(counts[size] for size in sizes)
    lines = [
        f"{label:>{before}} {_bar(counts[size] / most * room)} {number}"
        for size, label, number in zip(sizes, labels, numbers, strict=True)
    ]
    if rest := [count for size, count in counts.items() if size not in largest]:
        lines.append(_("and {0}: {1}").format(plural(len(rest), _("more size")), plural(sum(rest), _("image"))))
    return lines


def _bar(cells: float) -> str:
    """A bar of so many cells, at least an eighth of one."""
    eighths = max(1, round(cells * 8))
    if symbols().ascii:
        return "#" * round(eighths / 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
