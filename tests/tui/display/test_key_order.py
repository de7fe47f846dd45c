"""Keys that come together, as over a slow line, do what they do one after the other."""

from __future__ import annotations

from typing import ClassVar

import pytest
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.pilot import Pilot
from textual.widgets import Input

import tui.display.key_order
from tui.display.key_order import KeysInOrder


class Fields(KeysInOrder):
    """Two fields deep in containers, as in the steps; F3 removes the first, F4 goes to the second."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("f3", "away", "Away"), Binding("f4", "second", "Second")]

    def compose(self) -> ComposeResult:
        with Vertical(), Vertical(), Vertical():
            yield Input("old", id="one")
            yield Input("old", id="two")

    def action_away(self) -> None:
        self.query_one("#one").remove()

    def action_second(self) -> None:
        self.query_one("#two").focus()

    def type_at_once(self, *keys: str) -> None:
        for key in keys:
            self.post_message(events.Key(key, key if len(key) == 1 else None))

    @property
    def values(self) -> list[str]:
        return [field.value for field in self.query(Input)]


async def until_values(app: Fields, pilot: Pilot[int], *values: str) -> None:
    for _ in range(200):
        if app.values == [*values]:
            return
        await pilot.pause(0.02)
    assert app.values == [*values]


async def test_tab_and_a_word() -> None:
    app = Fields()
    async with app.run_test() as pilot:
        app.type_at_once("ctrl+u", *"first", "tab", "ctrl+u", *"second", "shift+tab", "end", "1")
        await until_values(app, pilot, "first1", "second")


async def test_a_key_that_moves_the_focus() -> None:
    app = Fields()
    async with app.run_test() as pilot:
        app.type_at_once("f4", "ctrl+u", *"second", "shift+tab", "ctrl+u", "f4", "end", "x")
        await until_values(app, pilot, "", "secondx")


async def test_pasted_text_waits_too() -> None:
    app = Fields()
    async with app.run_test() as pilot:
        app.type_at_once("ctrl+u", "tab", "ctrl+u")
        app.post_message(events.Paste("pasted"))
        app.type_at_once("x")
        await until_values(app, pilot, "", "pastedx")


async def test_a_field_that_goes_takes_no_later_key_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tui.display.key_order, "PATIENCE_SECONDS", 0.1)
    app = Fields()
    async with app.run_test() as pilot:
        app.type_at_once("f3", "tab")
        await until_values(app, pilot, "old")
        app.query_one("#two").focus()
        app.type_at_once("ctrl+u", *"new")
        await until_values(app, pilot, "new")
