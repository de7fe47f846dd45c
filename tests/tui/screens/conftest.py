"""The screens through Textual's Pilot, in a home of their own, with nothing that moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input, TextArea

from tests.tui.ready import READY
from tui.app import Appearance, LoraSmithApp
from tui.setup.draft import Draft, forget_presets

NARROW, WIDE = (80, 24), (120, 36)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; the user's own files are next to it."""
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    for variable in ("NO_COLOR", "LORASMITH_THEME", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Input, "cursor_blink", False)
    monkeypatch.setattr(TextArea, "cursor_blink", False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def smith(home: Path) -> Callable[..., LoraSmithApp]:
    """smith(step="model", values={...}, extras={...}): the app with a draft, to be run with `run_test`."""

    def make(
        step: str = "hardware",
        values: dict[str, Any] | None = None,
        *,
        preset: str = "sd15-realistic",
        extras: dict[str, Any] | None = None,
        done: tuple[str, ...] = (),
        **appearance: Any,
    ) -> LoraSmithApp:
        draft = Draft(preset=preset, values=values or {}, step=step, extras=extras or {}, done=list(done))
        return LoraSmithApp(appearance=Appearance(**appearance), draft=draft)

    return make


@pytest.fixture
def ready(smith: Callable[..., LoraSmithApp]) -> Callable[..., LoraSmithApp]:
    """ready("review", {...}, preset=...): the app that begins with a step, with all that a training needs."""
    forget_presets()

    def make(step: str, values: dict[str, Any] | None = None, **more: Any) -> LoraSmithApp:
        app = smith(step, {**READY, **(values or {})}, **more)
        app.first_step = step
        return app

    return make


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """await until(pilot, condition): let the app work until it is true; fail after `seconds`."""

    async def wait(pilot: Pilot[Any], condition: Callable[[], object], seconds: float = 15.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "did not come true in time; the screen:\n" + shown(pilot.app)
            await asyncio.sleep(0.02)  # the app works by itself; a pause would ask each of its widgets, every time
            if pilot.app._exception_event.is_set():
                await pilot.pause()  # raises it
        await pilot.pause()  # what belongs to the same change is laid out too

    return wait


def shown(app: App[Any]) -> str:
    """The screen as text, a line for each row."""
    rows = app.screen._compositor.render_strips(app.size)
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in rows)


@pytest.fixture
def text() -> Callable[[App[Any]], str]:
    """text(app): the text on the screen."""
    return shown
