"""The theme of the start reaches the screens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tui.app import LoraSmithApp
from tui.screens.hardware import HardwareScreen


@pytest.mark.parametrize(("theme", "marked"), [("no-colour", True), ("textual-dark", False)])
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
