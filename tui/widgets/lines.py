"""Text that is redrawn only where it changes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.geometry import Region
from textual.widget import Widget

from tui.texts import _
from tui.widgets.filterable import Filterable


class Lines(Widget):
    """Draws only what differs, and is laid out again only when its height may.

    Args:
        wraps: long lines take several rows.
    """

    DEFAULT_CSS = "Lines { height: auto; }"

    def __init__(self, *, id: str, classes: str | None = None, wraps: bool = False) -> None:
        super().__init__(id=id, classes=classes)
        self._content = Content()
        self._wraps = wraps

    def render(self) -> Content:
        """The current text."""
        return self._content

    def set_text(self, content: Content | str) -> None:
        """Show this text."""
        text = content if isinstance(content, Content) else Content(content)
        before, self._content = self._content, text
        if text.is_same(before):
            return
        old, new = before.split("\n"), text.split("\n")
        if self._wraps or len(old) != len(new):
            self.refresh(layout=True)
            return
        for y, (old_line, new_line) in enumerate(zip(old, new, strict=True)):
            if not old_line.is_same(new_line):
                start = _first_difference(old_line, new_line)
                self.refresh(Region(start, y, max(1, self.size.width - start), 1))


def _first_difference(first: Content, second: Content) -> int:
    """The first cell where two lines differ."""
    if first.spans != second.spans:
        return 0
    pairs = enumerate(zip(first.plain, second.plain, strict=False))
    same = next((place for place, (a, b) in pairs if a != b), min(len(first.plain), len(second.plain)))
    return cell_len(first.plain[:same])


class Passage(VerticalScroll, can_focus=False):
    """Text that is as high as its lines up to the height that the style sheet allows; where it has more, Tab reaches
    it, and it scrolls.

    Args:
        title: in its frame.
    """

    DEFAULT_CSS = "Passage { height: auto; }"

    def __init__(self, title: str, *, id: str) -> None:
        super().__init__(id=id, classes="frame")
        self._title = self.border_title = title

    def compose(self) -> ComposeResult:
        """The text."""
        yield Lines(id=f"{self.id}-lines", wraps=True)

    def set_text(self, content: Content | str) -> None:
        """Show this text from its beginning."""
        self.query_one(Lines).set_text(content)
        self.scroll_home(animate=False)

    @property
    def copied_text(self) -> str:
        """The text."""
        return self.query_one(Lines).render().plain

    def watch_show_vertical_scrollbar(self) -> None:
        """Take the focus, and name the keys, where there is more than is shown."""
        self.can_focus = self.show_vertical_scrollbar
        more = _("{0} (Tab: all of it)").format(self._title)
        self.border_title = more if self.show_vertical_scrollbar else self._title


class Tail(VerticalScroll, Filterable):
    """Lines that grow at their end: the end stays in view unless the person has scrolled away."""

    DEFAULT_CSS = "Tail Lines { min-height: 100%; }"  # shorter anchored text would be at the bottom
    _all: Sequence[Content] = ()

    def compose(self) -> ComposeResult:
        """The text."""
        yield Lines(id=f"{self.id}-lines", wraps=True)

    def on_mount(self) -> None:
        """Keep the end in view."""
        self.anchor()

    def set_text(self, content: Content | str) -> None:
        """Show this text, or those of its lines that fit the filter."""
        self._all = (content if isinstance(content, Content) else Content(content)).split("\n")
        self.rearrange()

    def rearrange(self) -> None:
        """Show the lines that fit the filter."""
        self.query_one(Lines).set_text(Content("\n").join(self._fitting))

    @property
    def _fitting(self) -> list[Content]:
        return [line for line in self._all if self.shows(line.plain)]

    def shown_of_all(self) -> tuple[int, int]:
        """Lines that fit the filter, and all of them."""
        return len(self._fitting), len(self._all)

    @property
    def copied_text(self) -> str:
        """The lines that are shown."""
        return "\n".join(line.plain for line in self._fitting)
