"""A run in short: its newest sample, its progress, its loss, and what to know about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from tui.widgets.image_view import ImageView

TEXT_CELLS = 58
"""Of the text beside the image."""


@dataclass(frozen=True)
class About:
    """What a card shows."""

    title: str
    text: Content
    image: Path | None


class RunCard(Horizontal):
    """The image is shown where there is one, as large as the card is high."""

    DEFAULT_CSS = """
    RunCard ImageView { height: 1fr; margin-right: 2; display: none; }
    RunCard ImageView.-shown { display: block; }
    RunCard #about { height: auto; }
    """

    def __init__(self) -> None:
        super().__init__(id="details", classes="frame")

    def compose(self) -> ComposeResult:
        """Image and text side by side."""
        yield ImageView()
        yield VerticalScroll(Static(id="about"), can_focus=False)

    def on_resize(self) -> None:
        """Make the image's box square: a cell is about twice as high as wide."""
        width, height = self.content_size
        self.query_one(ImageView).styles.width = max(10, min(2 * height, width - TEXT_CELLS))

    def show(self, about: About) -> None:
        """Show a run."""
        self.border_title = about.title
        self.query_one("#about", Static).update(about.text)
        image = self.query_one(ImageView)
        image.set_class(about.image is not None, "-shown")
        image.path = about.image
