"""A strip of pictures that one moves through by the arrow keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.reactive import reactive
from textual.widgets import Static

from engine.text import printable
from tui.texts import _
from tui.widgets.picture import Picture

CELLS = 16
"""Width of one picture."""
MOST = 8
"""Pictures beside each other on the widest terminal."""


class Thumbnails(Vertical, can_focus=True):
    """The picture at `position` stands leftmost, with its name below; the following ones stand beside it."""

    DEFAULT_CSS = f"""
    Thumbnails {{ height: 8; }}
    Thumbnails Horizontal {{ height: 1fr; }}
    Thumbnails Picture {{ width: {CELLS}; height: 1fr; margin-right: 1; }}
    Thumbnails Static {{ height: 1; text-overflow: ellipsis; text-wrap: nowrap; }}
    Thumbnails:focus Static {{ text-style: reverse; }}
    """
    HELP: ClassVar[str] = _(
        "**Pictures.** Left and Right move through them, Home and End go to the first and the last."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1)", _("Previous"), show=False),
        Binding("right", "move(1)", _("Following"), show=False),
        Binding("pageup", "move(-10)", _("Ten back"), show=False),
        Binding("pagedown", "move(10)", _("Ten on"), show=False),
        Binding("home", "go(0)", _("First picture"), show=False),
        Binding("end", "go(-1)", _("Last picture"), show=False),
    ]
    position: reactive[int] = reactive(0)

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.pictures: Sequence[tuple[Path, str]] = ()

    def compose(self) -> ComposeResult:
        """Places for pictures, filled as far as the width goes, and a line."""
        with Horizontal():
            for _number in range(MOST):
                yield Picture()
        yield Static(markup=False)

    def show(self, pictures: Sequence[tuple[Path, str]]) -> None:
        """Show others: (path, what stands behind the name)."""
        self.pictures = pictures
        self.set_reactive(Thumbnails.position, 0)
        self._fill()

    def watch_position(self) -> None:
        """Moved."""
        self._fill()

    def on_resize(self) -> None:
        """More or less room."""
        self._fill()

    def _fill(self) -> None:
        visible = self.content_size.width // (CELLS + 1)
        for number, picture in enumerate(self.query(Picture)):
            at = self.position + number
            shown = number < visible and at < len(self.pictures)
            picture.display = shown
            picture.path = self.pictures[at][0] if shown else None
        self.query_one(Static).update(self._line())

    def _line(self) -> str:
        if not self.pictures:
            return ""
        path, about = self.pictures[self.position]
        place = _("‹ {0} of {1} › {2}").format(self.position + 1, len(self.pictures), printable(path.name))
        return f"{place}, {about}" if about else place

    def action_move(self, by: int) -> None:
        """So many pictures on."""
        if self.pictures:
            self.position = min(max(0, self.position + by), len(self.pictures) - 1)

    def action_go(self, to: int) -> None:
        """To the first (0) or the last (-1)."""
        if self.pictures:
            self.position = to % len(self.pictures)
