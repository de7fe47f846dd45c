"""What all screens share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from textual import on
from textual.app import ComposeResult
from textual.css.query import NoMatches
from textual.message import Message
from textual.widgets import Static

from tui import screens
from tui.app import LoraSmithApp
from tui.screens.base import BaseScreen


class Reported(Message):
    """What a thread found out."""


class Late(BaseScreen):
    """Writes into a widget when it gets a message."""

    def compose_content(self) -> ComposeResult:
        yield Static(id="words")

    @on(Reported)
    def _write(self) -> None:
        self.query_one("#words", Static).update("reported")


async def test_what_is_reported_after_the_screen_was_left_is_dropped(smith: Callable[..., LoraSmithApp]) -> None:
    app, late = smith(), Late()
    async with app.run_test() as pilot:
        await app.push_screen(late)
        await late._dispatch_message(Reported())
        words = late.query_one("#words", Static)
        assert str(words.render()) == "reported"
        await words.remove()
        with pytest.raises(NoMatches):
            await late._dispatch_message(Reported())
        app.pop_screen()
        await pilot.pause()
        await late._dispatch_message(Reported())
        assert late not in app.screen_stack


def test_the_style_of_a_screen_is_for_no_other() -> None:
    """A style sheet stays loaded: a rule for a bare identifier would hold on every screen."""
    sheets = sorted(Path(screens.__file__).parent.glob("*.tcss"))
    lines = [(sheet.name, line) for sheet in sheets for line in sheet.read_text().splitlines()]
    assert lines and [(name, line) for name, line in lines if line.startswith(("#", "."))] == []
