"""The footer keeps help and quit in view, however narrow it is."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Static
from textual.widgets._footer import FooterKey

import tui
from tests.tui.screens.conftest import shown
from tests.tui.screens.conftest import until as until
from tui.app import LoraSmithApp
from tui.widgets.key_bar import KeyBar

Until = Callable[..., Awaitable[None]]


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

    BINDINGS: list[BindingType] = [Binding("ctrl+q", "leave_app", "Quit", priority=True)]  # noqa: RUF012

    def get_default_screen(self) -> Many:
        return Many()

    def action_leave_app(self) -> None:
        self.exit()


def footer(app: App[None]) -> str:
    return shown(app).splitlines()[-1]


async def test_help_and_quit_stay(until: Until) -> None:
    app = Wrapped()
    async with app.run_test(size=(60, 4)) as pilot:
        await until(pilot, lambda: footer(app) == "? Help a 漢字 a b Something b c Something c … ^q Quit")
        await pilot.resize_terminal(100, 4)
        await until(pilot, lambda: footer(app).endswith("e Something e f Something f ^q Quit"))
        await pilot.resize_terminal(16, 4)
        await until(pilot, lambda: footer(app) == "? Help … ^q Quit")


class Plain(Static, can_focus=True):
    """Has no keys."""


class WithKey(Plain):
    """Has a key."""

    BINDINGS = [Binding("t", "turn", "Turn")]  # noqa: RUF012


class Fields(Screen[None]):
    """Two things without keys, and a thing with a key."""

    BINDINGS = [Binding("s", "start", "Start")]  # noqa: RUF012
    can_start: bool | None = True

    def compose(self) -> ComposeResult:
        yield Plain("one")
        yield Plain("two")
        yield WithKey("three")
        yield KeyBar()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self.can_start if action == "start" else True


async def test_keys_are_composed_again_only_where_one_differs(until: Until) -> None:
    app, screen = Wrapped(), Fields()
    async with app.run_test(size=(60, 6)) as pilot:
        await app.push_screen(screen)
        await until(pilot, lambda: footer(app) == "s Start ^q Quit")
        bar = screen.query_one(KeyBar)
        keys = list(bar.query(FooterKey))
        assert [key.description for key in keys] == ["Start", "Quit"] and all(key.has_class("-compact") for key in keys)
        await pilot.press("tab")
        await pilot.pause()
        assert str(app.focused.render()) == "two" and list(bar.query(FooterKey)) == keys  # type: ignore[union-attr]
        await pilot.press("tab")
        await until(pilot, lambda: footer(app) == "t Turn s Start ^q Quit")
        screen.can_start = None
        screen.refresh_bindings()
        await until(pilot, lambda: [key.description for key in bar.query(".-disabled").results(FooterKey)] == ["Start"])
        screen.can_start = False
        screen.refresh_bindings()
        await until(pilot, lambda: footer(app) == "t Turn ^q Quit")


def test_no_other_action_is_called_as_one_of_the_app() -> None:
    """The footer shows one key for each name of an action: a second "leave" would hide the app's."""
    own = {binding.action: binding.description for binding in LoraSmithApp.BINDINGS if isinstance(binding, Binding)}
    modules = [module.name for module in pkgutil.walk_packages(tui.__path__, "tui.")]
    members = [member for name in modules for member in vars(importlib.import_module(name)).values()]
    classes = {member for member in members if isinstance(member, type)}
    declared = [
        (kind, binding)
        for kind in classes - {LoraSmithApp}
        if kind.__module__.startswith("tui.")
        for binding in vars(kind).get("BINDINGS", ())
        if isinstance(binding, Binding)
    ]
    assert len(declared) > 50
    assert [
        (kind.__name__, binding.action)
        for kind, binding in declared
        if binding.action in own and binding.description != own[binding.action]
    ] == []
