"""A run in short: its newest sample, its progress, its loss, and what to know about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from tui.widgets.image_view import ImageView


@dataclass(frozen=True)
class About:
    """What a card shows."""

    title: str
    text: Content
    image: Path | None


class RunCard(Horizontal):
    """The image is shown where there is one."""

    DEFAULT_CSS = """
    RunCard ImageView { width: 10; height: 1fr; margin-right: 2; display: none; }
    RunCard ImageView.-shown { display: block; }
    RunCard #about { height: auto; }
    """

    def __init__(self) -> None:
        super().__init__(id="details", classes="frame")

    def compose(self) -> ComposeResult:
        """Image and text side by side."""
        yield ImageView()
        yield VerticalScroll(Static(id="about"), can_focus=False)

    def show(self, about: About) -> None:
        """Show a run."""
        self.border_title = about.title
        self.query_one("#about", Static).update(about.text)
        image = self.query_one(ImageView)
        image.set_class(about.image is not None, "-shown")
        image.path = about.image
