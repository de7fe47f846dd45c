"""Text that costs nothing while it stays the same."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static


class Lines(Static):
    """Drawn again only when the text differs, laid out again only when its height may.

    Args:
        wraps: long lines take several rows.
    """

    def __init__(self, *, id: str, classes: str | None = None, wraps: bool = False) -> None:
        super().__init__(id=id, classes=classes, markup=False)
        self._said = Content()
        self._wraps = wraps

    def say(self, content: Content | str) -> None:
        """Show this."""
        told = content if isinstance(content, Content) else Content(content)
        if not told.is_same(self._said):
            layout = self._wraps or told.plain.count("\n") != self._said.plain.count("\n")
            self._said = told
            self.update(told, layout=layout)


class Tail(VerticalScroll):
    """Lines that grow at their end: the end stays in view unless one has scrolled away from it."""

    def compose(self) -> ComposeResult:
        """The text."""
        yield Lines(id=f"{self.id}-lines", wraps=True)

    def say(self, content: Content | str) -> None:
        """Show this."""
        at_end = self.scroll_offset.y >= self.max_scroll_y
        self.query_one(Lines).say(content)
        if at_end:
            self.call_after_refresh(self.scroll_end, animate=False)
