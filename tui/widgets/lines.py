"""Text that costs nothing while it stays the same, and little when a number in it changes."""

from __future__ import annotations

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.geometry import Region
from textual.widget import Widget


class Lines(Widget):
    """Draws only what differs, and is laid out again only when its height may.

    Args:
        wraps: long lines take several rows.
    """

    DEFAULT_CSS = "Lines { height: auto; }"

    def __init__(self, *, id: str, classes: str | None = None, wraps: bool = False) -> None:
        super().__init__(id=id, classes=classes)
        self._said = Content()
        self._wraps = wraps

    def render(self) -> Content:
        """What was said last."""
        return self._said

    def say(self, content: Content | str) -> None:
        """Show this."""
        told = content if isinstance(content, Content) else Content(content)
        before, self._said = self._said, told
        if told.is_same(before):
            return
        old, new = before.split("\n"), told.split("\n")
        if self._wraps or len(old) != len(new):
            self.refresh(layout=True)
            return
        for y, (one, other) in enumerate(zip(old, new, strict=True)):
            if not one.is_same(other):
                start = _first_difference(one, other)
                self.refresh(Region(start, y, max(1, self.size.width - start), 1))


def _first_difference(one: Content, other: Content) -> int:
    """The cell from which on two lines differ."""
    if one.spans != other.spans:
        return 0
    pairs = enumerate(zip(one.plain, other.plain, strict=False))
    same = next((place for place, (a, b) in pairs if a != b), min(len(one.plain), len(other.plain)))
    return cell_len(one.plain[:same])


class Tail(VerticalScroll):
    """Lines that grow at their end: the end stays in view unless one has scrolled away from it."""

    DEFAULT_CSS = "Tail Lines { min-height: 100%; }"  # what is anchored and shorter would stand at the bottom

    def compose(self) -> ComposeResult:
        """The text."""
        yield Lines(id=f"{self.id}-lines", wraps=True)

    def on_mount(self) -> None:
        """Keep the end in view."""
        self.anchor()

    def say(self, content: Content | str) -> None:
        """Show this."""
        self.query_one(Lines).say(content)
