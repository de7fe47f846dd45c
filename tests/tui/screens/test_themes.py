"""The theme of the start reaches the screens."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import pytest
from textual.filter import ANSIToTruecolor
from textual.widget import Widget
from textual.widgets import Button

from tui.app import LoraSmithApp
from tui.display.themes import PALETTES, first_theme
from tui.screens.hardware import HardwareScreen
from tui.screens.step import StepScreen
from tui.screens.steps import STEPS


@pytest.mark.parametrize(("theme", "marked"), [("no-colour", True), ("smith-dark", False)])
async def test_the_cursor_of_a_list_shows_without_colour(
    smith: Callable[..., LoraSmithApp],
    until: Callable[..., Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    theme: str,
    marked: bool,
) -> None:
    monkeypatch.setenv("LORASMITH_THEME", theme)
    app = smith("hardware")
    app.first_step = "hardware"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, HardwareScreen))
        strips = app.screen._compositor.render_strips(app.size)
        cursor = next(segment for strip in strips for segment in strip if "● Automatic" in segment.text)
        other = next(segment for strip in strips for segment in strip if "○ CPU" in segment.text)
        assert cursor.style is not None and other.style is not None
        assert bool(cursor.style.underline) == marked and not other.style.underline


@pytest.mark.parametrize(("theme", "place"), [("smith-dark", 0), ("smith-light", 1)])
def test_the_first_theme_has_its_own_palette(
    smith: Callable[..., LoraSmithApp], monkeypatch: pytest.MonkeyPatch, theme: str, place: int
) -> None:
    """Yellow and red of a list are not those of the other theme."""
    monkeypatch.setenv("LORASMITH_THEME", theme)
    app = smith("hardware")
    (names,) = (each for each in app._filters if isinstance(each, ANSIToTruecolor))
    assert names._terminal_theme is PALETTES[place]
    assert (app.has_class("-dark-mode"), app.has_class("-light-mode")) == (place == 0, place == 1)


async def test_a_theme_that_was_chosen_comes_back_where_there_are_as_many_colours(
    smith: Callable[..., LoraSmithApp],
    until: Callable[..., Awaitable[None]],
    text: Callable[[LoraSmithApp], str],
) -> None:
    app = smith("hardware")
    assert first_theme("truecolor", {}) == "smith-dark"
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("ctrl+p", *"Theme")
        await until(pilot, lambda: "high contrast" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "name of a theme" in text(app) and "monokai" in text(app))
        await pilot.press(*"high-contrast")
        await until(pilot, lambda: "monokai" not in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.theme == "high-contrast")
    kept = app._colour_system
    assert smith("hardware").theme == "high-contrast" == first_theme(kept, {})
    assert first_theme(kept, {"LORASMITH_THEME": "textual-light"}) == "textual-light"
    assert first_theme("standard" if kept in ("truecolor", "256") else "truecolor", {}) != "high-contrast"
    assert first_theme(kept, {"NO_COLOR": "1"}) == "no-colour"


def drawn(app: LoraSmithApp, widget: Widget) -> list[list[tuple[str, ...]]]:
    """Each cell of a widget and of the frame around it: its letter, and how that is written."""
    frame = next(
        (node for node in widget.ancestors_with_self if isinstance(node, Widget) and node.has_class("frame")), widget
    )
    region = frame.region.union(widget.region)
    cells = []
    for strip in app.screen._compositor.render_strips(app.size)[region.y : region.bottom]:
        row: list[tuple[str, ...]] = []
        for segment in strip.crop(region.x, region.right):
            styles = str(segment.style or "")
            row += [(letter, styles) for letter in segment.text]
        cells.append(row)
    return cells


@pytest.mark.parametrize("term", ["xterm-256color", "linux"])
@pytest.mark.parametrize("step", [step.name for step in STEPS])
async def test_the_focus_shows_without_colour(
    ready: Callable[..., LoraSmithApp],
    until: Callable[..., Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    term: str,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", term)
    app = ready(step)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, StepScreen) and step == app.screen.STEP)
        widgets = [widget for widget in app.screen.focus_chain if widget.region]
        assert {"back", "next"} <= {widget.id for widget in widgets}
        for widget in widgets:
            app.screen.set_focus(None)
            await pilot.pause()
            without = drawn(app, widget)
            widget.focus()
            await pilot.pause()
            assert drawn(app, widget) != without, widget


async def test_a_button_shows_its_state_without_colour(
    ready: Callable[..., LoraSmithApp], until: Callable[..., Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = ready("hardware")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, HardwareScreen))
        styles = []
        button = app.screen.query_one("#next", Button)
        for change in (lambda: app.screen.set_focus(None), button.focus, lambda: setattr(button, "disabled", True)):
            change()
            await pilot.pause()
            styles.append({style for row in drawn(app, button) for letter, style in row if letter == "N"})
        assert styles == [{"bold underline"}, {"bold reverse"}, {"dim"}]


@pytest.mark.parametrize("theme", ["smith-16", "no-colour", "ansi-light"])
async def test_a_field_has_edges_where_it_has_no_background(
    ready: Callable[..., LoraSmithApp],
    until: Callable[..., Awaitable[None]],
    text: Callable[[LoraSmithApp], str],
    monkeypatch: pytest.MonkeyPatch,
    theme: str,
) -> None:
    """On a console, whose letters are ASCII: also in the palette nothing else is drawn."""
    monkeypatch.setenv("LORASMITH_THEME", theme)
    monkeypatch.setenv("TERM", "linux")
    app = ready("model")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "VAE" in text(app))
        assert re.search(r"^ Model +\|\S.* \|$", text(app), re.MULTILINE), text(app)
        assert re.search(r"^ VAE +\|optional.* \|$", text(app), re.MULTILINE), text(app)
        await pilot.press("ctrl+p")
        await until(pilot, lambda: "One step back" in text(app))
        assert text(app).isascii()
