"""Paragraphs whose further rows are indented more than the first."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from tui.text.cells import hanging

Paragraph = tuple[str, str]
"""A line of any length, which may begin with spaces, and its style."""


class Hanging(Widget):
    """Wraps its paragraphs to its width; the row after the first begins to the right of it."""

    DEFAULT_CSS = "Hanging { width: 1fr; height: auto; }"
    _paragraphs: Sequence[Paragraph] = ()

    def show(self, paragraphs: Sequence[Paragraph]) -> None:
        """Show these paragraphs."""
        self._paragraphs = paragraphs
        self.refresh(layout=True)

    @property
    def text(self) -> str:
        """The paragraphs, a line for each."""
        return "\n".join(text for text, _style in self._paragraphs)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """The rows at this width."""
        return sum(len(hanging(text, width)) for text, _style in self._paragraphs)

    def render(self) -> Content:
        """The rows at the present width."""
        width = self.content_size.width
        rows = [(row, style) for text, style in self._paragraphs for row in hanging(text, width)]
        return Content("\n").join(Content.styled(row, style) if style else Content(row) for row, style in rows)
