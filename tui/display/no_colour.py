"""Lines without colours, for NO_COLOR: what is left is bold, dim, underlined and reversed."""

from __future__ import annotations

from functools import lru_cache

from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter


@lru_cache(2048)
def _without_colours(style: Style) -> Style:
    """Rich's own copy would lose what a click does."""
    return style.without_color + Style(meta=style.meta) if style.meta else style.without_color


class NoColours(LineFilter):
    """Textual's filter names the terminal's default colours, or turns all into greys, which are colours too."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """See `LineFilter.apply`."""
        return [Segment(text, style and _without_colours(style), control) for text, style, control in segments]
