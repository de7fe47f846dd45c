"""A list of images with the beginning of their captions. Draws only visible rows, so its length does not matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from engine.text import printable
from tui.setup.caption_book import Book
from tui.text.cells import clipped
from tui.texts import _
from tui.widgets.filterable import Filterable

NAME_CELLS = 13
"""Of the image's name, at most; the caption has the rest."""


class CaptionList(ScrollView, Filterable, can_focus=True):
    """`position` is the place in the book of the highlighted image, whatever is shown in whichever order."""

    ORDERS = (_("name"), _("problems first"), _("the shortest caption first"))

    HELP: ClassVar[str] = _(
        "**Images.** ✓ has a caption, ✗ has none, ! has one without the trigger word or one that is too long. "
        "Enter edits the caption, Escape comes back here. Letters work while the list is focused."
    )
    DEFAULT_CSS = """
    CaptionList { width: 1fr; height: 1fr; scrollbar-size-vertical: 1; }
    CaptionList > .captions--caption { color: $text-muted; }
    CaptionList > .captions--open { color: $text-error; }
    CaptionList > .captions--odd { color: $text-warning; }
    CaptionList > .captions--here { text-style: underline; }
    CaptionList > .captions--cursor { text-style: reverse; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "captions--name", "captions--caption", "captions--open", "captions--odd", "captions--here", "captions--cursor"
    }  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "edit", _("Edit"), tooltip=_("Edit the caption; Escape comes back.")),
        Binding("up", "move(-1)", _("Previous image"), show=False),
        Binding("down", "move(1)", _("Next image"), show=False),
        Binding("pageup", "page(-1)", _("Page up"), show=False),
        Binding("pagedown", "page(1)", _("Page down"), show=False),
        Binding("home", "go(0)", _("First image"), show=False),
        Binding("end", "go(-1)", _("Last image"), show=False),
    ]
    position: reactive[int] = reactive(0, init=False)

    @dataclass
    class Highlighted(Message):
        """Another image is highlighted."""

        position: int

    class NoMatch(Message):
        """No image fits the filter."""

    class Edit(Message):
        """Enter was pressed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.book: Book | None = None
        self._places: list[int] = []
        """Places in the book of the images that are shown, in their order."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The captions of the program's own images cannot be edited."""
        if action == "edit" and self.book is not None and self.book.rules.shipped:
            return False
        return super().check_action(action, parameters)

    @property
    def count(self) -> int:
        """Images in the book."""
        return len(self.book.files) if self.book is not None else 0

    @property
    def row(self) -> int:
        """The row of the highlighted image; of one that the filter hides the next one's."""
        if self.position in self._places:
            return self._places.index(self.position)
        return next((row for row, place in enumerate(self._places) if place > self.position), 0)

    def rearrange(self) -> None:
        """Show the captions that fit the filter, in the order that was chosen."""
        book = self.book
        files = list(enumerate(book.files)) if book is not None else []
        shown = [(place, file) for place, file in files if self.shows(f"{file.image.name} {file.text or ''}")]
        if self.order == 1 and book is not None:
            shown.sort(key=lambda pair: "✗!✓".index(book.mark(pair[1])))
        elif self.order == 2:
            shown.sort(key=lambda pair: len(pair[1].text or ""))
        if self.is_reversed:
            shown.reverse()
        was_empty, self._places = not self._places, [place for place, _file in shown]
        self.virtual_size = Size(0, len(self._places))
        if self._places and self.position not in self._places:
            self.position = self._places[self.row]
        elif self._places and was_empty:
            self.post_message(self.Highlighted(self.position))
        elif not self._places and not was_empty:
            self.post_message(self.NoMatch())
        self._into_view()
        self.refresh()

    def shown_of_all(self) -> tuple[int, int]:
        """Images that fit the filter, and all of them."""
        return len(self._places), self.count

    @property
    def copied_text(self) -> str:
        """The caption of the highlighted image."""
        return (self.book.files[self.position].text or "") if self.book is not None and self._places else ""

    def show(self, book: Book, position: int) -> None:
        """List these captions."""
        self.book = book
        self.set_reactive(CaptionList.position, max(0, min(position, self.count - 1)))
        self.rearrange()

    def validate_position(self, position: int) -> int:
        """Keep the position inside the list."""
        return max(0, min(position, self.count - 1))

    def watch_position(self, position: int) -> None:
        """Show and report the new position."""
        self._into_view()
        self.refresh()
        self.post_message(self.Highlighted(position))

    def on_resize(self) -> None:
        """Keep the highlighted row visible."""
        self._into_view()

    def on_focus(self) -> None:
        """Draw the cursor."""
        self.refresh()

    def on_blur(self) -> None:
        """Draw the faint cursor."""
        self.refresh()

    def _into_view(self) -> None:
        self.scroll_to_region(Region(0, self.row, 1, 1), animate=False, force=True)

    def action_move(self, by: int) -> None:
        """Up or down."""
        if self._places:
            self.position = self._places[max(0, min(len(self._places) - 1, self.row + by))]

    def action_page(self, by: int) -> None:
        """A page up or down."""
        self.action_move(by * max(1, self.scrollable_content_region.height - 1))

    def action_go(self, to: int) -> None:
        """To the first (0) or the last (-1)."""
        if self._places:
            self.position = self._places[to]

    def action_edit(self) -> None:
        """Edit the caption."""
        if self._places:
            self.post_message(self.Edit())

    def on_click(self, event: Click) -> None:
        """Highlight the clicked row; edit it if it is highlighted already."""
        row = event.y + round(self.scroll_y)
        if row < len(self._places):
            if self._places[row] == self.position:
                self.action_edit()
            self.position = self._places[row]

    def render_line(self, y: int) -> Strip:
        """Mark, name, caption."""
        row, width = y + round(self.scroll_y), self.scrollable_content_region.width
        if self.book is None or row >= len(self._places):
            return Strip.blank(width, self.rich_style)
        place = self._places[row]
        file = self.book.files[place]
        mark = self.book.mark(file)
        name = printable(file.image.name)
        caption = printable((file.text or "").replace("\n", " / ")) or (_("unreadable") if file.problem else "–")
        base = self.rich_style
        cursor = place == self.position and self.has_focus

        def style(name: str) -> Style:
            """Of a part of the row; the highlighted row has one style."""
            own = base if cursor else base + self.get_component_rich_style(f"captions--{name}")
            here = "cursor" if cursor else "here"
            marked = self.get_component_rich_style(f"captions--{here}", partial=True)
            return own + marked if place == self.position else own

        kind = {"✗": "open", "!": "odd"}.get(mark, "name")
        names = min(NAME_CELLS, max(6, width // 2 - 2)) if width < 60 else 24
        segments = [
            Segment(f"{mark} ", style(kind)),
            Segment(f"{shortened(name, names)} ", style("name")),
            Segment(clipped(caption, width - names - 3), style("caption")),
        ]
        return Strip(segments).adjust_cell_length(width, style("caption")).crop(0, width)


def shortened(text: str, cells: int) -> str:
    """`text` in exactly `cells` cells: padded, or with an ellipsis in the middle, as names often differ at the end."""
    if cell_len(text) <= cells:
        return set_cell_size(text, cells)
    tail = text[-1:]
    while cell_len(tail) < cells // 2 and len(tail) < len(text):
        tail = text[-len(tail) - 1 :]
    return set_cell_size(text, max(0, cells - 1 - cell_len(tail))) + "…" + tail
