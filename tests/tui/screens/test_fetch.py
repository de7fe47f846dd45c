"""Downloading a model from within the step of the model, from a small hub of one's own."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from engine.models.hub.cache import cached_folder
from engine.paths import ASSETS
from tests.fake_hub import FakeHub, running
from tui.app import LoraSmithApp
from tui.screens.fetch import FetchScreen
from tui.screens.folders import FoldersScreen
from tui.screens.model import ModelScreen
from tui.setup.model_finding import KEY
from tui.widgets.path_input import PathInput

NARROW = (80, 24)
DEMO = "owner/demo"
Until = Callable[..., Awaitable[None]]
Shown = Callable[[LoraSmithApp], str]


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with the demo model."""
    with running(monkeypatch, home / "hf" / "hub") as hub:
        hub.add_folder(DEMO, ASSETS / "demo_base", tags=["license:openrail"])
        yield hub


@pytest.fixture
def app(hub: FakeHub, smith: Callable[..., LoraSmithApp]) -> LoraSmithApp:
    """At the step of the model, with an id that is not in the cache."""
    app = smith("model", {KEY: DEMO})
    app.first_step = "model"
    return app


async def asked(pilot: Pilot[None], until: Until, text: Shown) -> FetchScreen:
    """The dialog, once it knows what the download takes."""
    app = pilot.app
    assert isinstance(app, LoraSmithApp)
    await until(pilot, lambda: "Ctrl+O looks for it on the hub" in text(app) and "^o Download" in text(app))
    await pilot.press("ctrl+o")
    await until(pilot, lambda: "Enter downloads, Escape closes." in text(app))
    assert isinstance(app.screen, FetchScreen)
    return app.screen


async def test_the_size_is_shown_first_and_then_the_model_is_recognised(
    app: LoraSmithApp, hub: FakeHub, until: Until, text: Shown
) -> None:
    async with app.run_test(size=NARROW) as pilot:
        await asked(pilot, until, text)
        for sentence in (f"{DEMO}: ", " files, ", "To download: ", "Free: ", "Licence, as on its page: openrail"):
            assert sentence in text(app)
        assert hub.downloads() == []
        await pilot.press("enter")
        await until(pilot, lambda: "✓ Stable Diffusion 1.5" in text(app))
        assert isinstance(app.screen, ModelScreen) and "^o Download" not in text(app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        assert app.draft.get(KEY) == DEMO


async def test_escape_before_and_during_the_download(
    app: LoraSmithApp, hub: FakeHub, until: Until, text: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.families.fetch.REPORT_SECONDS", 0)  # the half that is sent at first comes at once
    hub.hold = threading.Event()
    async with app.run_test(size=NARROW) as pilot:
        await asked(pilot, until, text)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        assert hub.downloads() == []
        await asked(pilot, until, text)
        await pilot.press("d")
        await until(pilot, lambda: "━" in text(app) and "─" in text(app) and "MiB of " in text(app))
        shown = " ".join(text(app).replace("│", " ").split())
        assert "Escape stops; what was" in shown and "downloaded is kept." in shown, "the sentence wraps"
        await pilot.press("escape")
        hub.hold.set()
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        assert cached_folder(DEMO) is None
        await asked(pilot, until, text)
        assert "MiB of it are there already)" in text(app)
        await pilot.press("enter")
        await until(pilot, lambda: "✓ Stable Diffusion 1.5" in text(app))


async def test_what_the_hub_refuses_is_a_sentence_and_can_be_tried_again(
    app: LoraSmithApp, hub: FakeHub, until: Until, text: Shown
) -> None:
    hub.gated.add(DEMO)
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "^o Download" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "✗ owner/demo is gated" in text(app))
        assert "HF_TOKEN" in text(app) and "Accept it on" in text(app)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        hub.gated.clear()
        await asked(pilot, until, text)
        hub.gated.add(DEMO)
        await pilot.press("enter")
        await until(pilot, lambda: "✗ owner/demo is gated" in text(app) and "Enter downloads" in text(app))
        hub.gated.clear()
        await pilot.press("d")
        await until(pilot, lambda: "✓ Stable Diffusion 1.5" in text(app))


async def test_one_file_of_several(app: LoraSmithApp, hub: FakeHub, until: Until, text: Shown) -> None:
    hub.add("owner/two", {"a.safetensors": b"a" * 99, "b.safetensors": b"b" * 99})
    app.draft.set(KEY, "owner/two")
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "^o Download" in text(app))
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "Name one of them, as owner/two/a.safetensors" in " ".join(text(app).split()))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        field = app.screen.query_one("#model", PathInput)
        field.value = "owner/two/b.safetensors"
        await until(pilot, lambda: "✗ There is no file or folder owner/two/b.safetensors" in text(app))
        await asked(pilot, until, text)
        await pilot.press("enter")
        await until(pilot, lambda: field.value.endswith("/b.safetensors") and Path(field.value).is_absolute())


async def test_a_path_is_not_looked_for_on_the_hub(app: LoraSmithApp, home: Path, until: Until, text: Shown) -> None:
    (home / "models").mkdir()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "^o Download" in text(app))
        app.screen.query_one("#model", Input).value = "models/sd/none.safetensors"
        await until(pilot, lambda: "✗ There is no file or folder models/sd" in text(app))
        assert "^o Download" not in text(app)
