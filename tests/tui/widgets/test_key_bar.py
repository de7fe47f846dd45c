"""The footer keeps help and quit in view, however narrow it is."""

from __future__ import annotations

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tests.tui.screens.conftest import shown
from tui.widgets.key_bar import KeyBar


class Many(Screen[None]):
    """A screen with more keys than fit."""

    BINDINGS = [  # noqa: RUF012
        Binding("question_mark", "help", "Help", key_display="?"),
        *(Binding(letter, "bell", f"漢字 {letter}") for letter in "a"),
        *(Binding(letter, f"do_{letter}", f"Something {letter}") for letter in "bcdef"),
    ]

    def compose(self) -> ComposeResult:
        yield KeyBar()


class Wrapped(App[None]):
    """Quits."""

    BINDINGS: list[BindingType] = [Binding("ctrl+q", "leave", "Quit", priority=True)]  # noqa: RUF012

    def get_default_screen(self) -> Many:
        return Many()

    def action_leave(self) -> None:
        self.exit()


async def test_help_and_quit_stay() -> None:
    app = Wrapped()
    async with app.run_test(size=(60, 4)) as pilot:
        await pilot.pause()
        assert shown(app).splitlines()[-1] == "? Help a 漢字 a b Something b c Something c … ^q Quit"
        await pilot.resize_terminal(100, 4)
        await pilot.pause()
        await pilot.pause()
        assert shown(app).splitlines()[-1].endswith("e Something e f Something f ^q Quit")
        await pilot.resize_terminal(16, 4)
        await pilot.pause()
        await pilot.pause()
        assert shown(app).splitlines()[-1] == "? Help … ^q Quit"
