"""The theme of the start reaches the screens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tui.app import LoraSmithApp
from tui.display.themes import first_theme
from tui.screens.hardware import HardwareScreen


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
        await until(pilot, lambda: "Search for themes" in text(app) and "monokai" in text(app))
        await pilot.press(*"high-contrast")
        await until(pilot, lambda: "monokai" not in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.theme == "high-contrast")
    kept = app._colour_system
    assert smith("hardware").theme == "high-contrast" == first_theme(kept, {})
    assert first_theme(kept, {"LORASMITH_THEME": "textual-light"}) == "textual-light"
    assert first_theme("standard" if kept in ("truecolor", "256") else "truecolor", {}) != "high-contrast"
    assert first_theme(kept, {"NO_COLOR": "1"}) == "no-colour"
