"""Text that costs nothing while it stays the same."""

from __future__ import annotations

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
