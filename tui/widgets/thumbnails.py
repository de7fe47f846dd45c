"""A strip of images; the arrow keys move through it."""

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
from tui.widgets.image_view import ImageView

CELLS = 16
"""Width of one image."""
MOST = 8
"""Images side by side on the widest terminal."""


class Thumbnails(Vertical, can_focus=True):
    """The image at `position` is leftmost, with its name below; the following ones are next to it."""

    DEFAULT_CSS = f"""
    Thumbnails {{ height: 8; }}
    Thumbnails Horizontal {{ height: 1fr; }}
    Thumbnails ImageView {{ width: {CELLS}; height: 1fr; margin-right: 1; }}
    Thumbnails Static {{ height: 1; text-overflow: ellipsis; text-wrap: nowrap; }}
    Thumbnails:focus Static {{ text-style: reverse; }}
    """
    HELP: ClassVar[str] = _("**Images.** Left and Right move through them, Home and End go to the first and the last.")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1)", _("Previous"), show=False),
        Binding("right", "move(1)", _("Following"), show=False),
        Binding("pageup", "move(-10)", _("Ten back"), show=False),
        Binding("pagedown", "move(10)", _("Ten forward"), show=False),
        Binding("home", "go(0)", _("First image"), show=False),
        Binding("end", "go(-1)", _("Last image"), show=False),
    ]
    position: reactive[int] = reactive(0)

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.images: Sequence[tuple[Path, str]] = ()

    def compose(self) -> ComposeResult:
        """Places for images, as many as fit, and a line."""
        with Horizontal():
            for _number in range(MOST):
                yield ImageView()
        yield Static(markup=False)

    def show(self, images: Sequence[tuple[Path, str]]) -> None:
        """Show these images: (path, text after the name)."""
        self.images = images
        self.set_reactive(Thumbnails.position, 0)
        self._fill()

    def watch_position(self) -> None:
        """Show the images from the new position on."""
        self._fill()

    def on_resize(self) -> None:
        """Show as many as fit."""
        self._fill()

    def _fill(self) -> None:
        visible = self.content_size.width // (CELLS + 1)
        for number, image in enumerate(self.query(ImageView)):
            at = self.position + number
            is_shown = number < visible and at < len(self.images)
            image.display = is_shown
            image.path = self.images[at][0] if is_shown else None
        self.query_one(Static).update(self._line())

    def _line(self) -> str:
        if not self.images:
            return ""
        path, about = self.images[self.position]
        place = _("‹ {0} of {1} › {2}").format(self.position + 1, len(self.images), printable(path.name))
        return f"{place}, {about}" if about else place

    def action_move(self, by: int) -> None:
        """Move by some images."""
        if self.images:
            self.position = min(max(0, self.position + by), len(self.images) - 1)

    def action_go(self, to: int) -> None:
        """To the first (0) or the last (-1)."""
        if self.images:
            self.position = to % len(self.images)
