"""What all screens share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual import on
from textual.app import ComposeResult
from textual.css.query import NoMatches
from textual.message import Message
from textual.widgets import Static

from tui.app import LoraSmithApp
from tui.screens.base import BaseScreen


class Told(Message):
    """What a thread found out."""


class Late(BaseScreen):
    """Writes into a widget when it is told."""

    def compose_content(self) -> ComposeResult:
        yield Static(id="words")

    @on(Told)
    def _write(self) -> None:
        self.query_one("#words", Static).update("told")


async def test_what_is_told_after_the_screen_was_left_is_dropped(smith: Callable[..., LoraSmithApp]) -> None:
    app, late = smith(), Late()
    async with app.run_test() as pilot:
        await app.push_screen(late)
        await late._dispatch_message(Told())
        words = late.query_one("#words", Static)
        assert str(words.render()) == "told"
        await words.remove()
        with pytest.raises(NoMatches):
            await late._dispatch_message(Told())
        app.pop_screen()
        await pilot.pause()
        await late._dispatch_message(Told())
        assert late not in app.screen_stack
