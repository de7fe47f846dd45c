"""What the screens say and keep on the way from one run to the next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from PIL import Image
from textual.widgets import Input, Static

from engine.paths import ASSETS
from engine.runs import RunDir, write_exit
from tests.fake_run import prepared_run
from tui.app import LoraSmithApp
from tui.screens.ask_text import AskTextScreen
from tui.screens.review import ReviewScreen
from tui.screens.steps import STEPS
from tui.setup.preset_reasons import preset_reasons
from tui.widgets.field import FieldList
from tui.widgets.hanging import Hanging
from tui.widgets.path_input import PathInput
from tui.widgets.step_bar import StepBar

Smith = Callable[..., LoraSmithApp]
Until = Callable[..., Awaitable[None]]
Shown = Callable[[LoraSmithApp], str]


@pytest.fixture
def photos(home: Path) -> Path:
    folder = home / "photos"
    folder.mkdir()
    for name in "abc":
        Image.new("RGB", (64, 64), "red").save(folder / f"{name}.png")
    return folder


@pytest.fixture
def finished(home: Path) -> RunDir:
    run_dir = prepared_run(home, "anna")
    write_exit(run_dir, "finished", 0, 20)
    return run_dir


@pytest.mark.parametrize("step", [step.name for step in STEPS])
async def test_help_is_the_first_key_and_quit_the_last_in_every_field(
    smith: Smith, until: Until, text: Shown, step: str
) -> None:
    app = smith(step)
    app.first_step = step
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: getattr(app.screen, "STEP", "") == step)
        for place in [
            None,
            *[field for field in app.screen.query("Input, TextArea") if field.display and field.region.area],
        ]:
            app.screen.set_focus(place)
            await pilot.pause()
            footer = text(app).splitlines()[-1]
            assert footer.startswith("F1 Help") and footer.endswith("^q Quit"), place
            assert "esc " in footer, place


async def test_an_occupied_name_is_reported_in_folders_and_in_review(
    ready: Smith, finished: RunDir, photos: Path, until: Until, text: Shown
) -> None:
    app = ready("folders", {"saving.output_name": "anna", "dataset.train_data_dir": str(photos)}, preset="demo")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "An earlier run of this name is there." in text(app))
        app.screen.query_one("#name", Input).value = "anna-2"
        await until(pilot, lambda: "An earlier run of this name" not in text(app))
        app.screen.query_one("#name", Input).value = "anna"
        app.draft.set("dataset.train_data_dir", str(ASSETS / "demo_pictures"))
        app.draft.set("saving.output_name", "anna")
        app.draft.set("saving.output_dir", str(finished.path))
        await pilot.press("ctrl+g", "6")
        await until(pilot, lambda: isinstance(app.screen, ReviewScreen) and app.screen.report is not None)
        assert "An earlier run of this name is there. It is kept" in app.screen.query_one(Hanging).text


async def test_enter_starts_from_the_review(ready: Smith, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []
    monkeypatch.setattr(ReviewScreen, "leave", lambda _screen: started.append(True))
    app = ready("review", preset="demo")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ReviewScreen) and app.screen.report is not None)
        assert app.screen.query_one("#report").has_focus
        await pilot.press("enter")
        await until(pilot, lambda: started == [True])


async def test_a_broken_step_loses_its_tick(smith: Smith, until: Until) -> None:
    app = smith("model", {"model.pretrained_model_name_or_path": "/nowhere"}, done=("hardware", "model"))
    app.first_step = "model"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.draft.done == ["hardware"])
        assert app.screen.query_one(StepBar).done == ("hardware",)


async def test_a_file_is_named_with_completion(smith: Smith, home: Path, until: Until, text: Shown) -> None:
    (home / "kohya_settings.toml").write_text("")
    app = smith()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Set up a new run" in text(app))
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, AskTextScreen) and isinstance(app.focused, PathInput))
        await pilot.press(*"koh")
        await until(pilot, lambda: isinstance(app.focused, PathInput) and app.focused.list_open)
        await pilot.press("tab")
        await until(pilot, lambda: app.focused.value == "kohya_settings.toml")  # type: ignore[union-attr]


async def test_other_images_than_the_demos_are_reported(smith: Smith, photos: Path, until: Until, text: Shown) -> None:
    app = smith("folders", {"model.pretrained_model_name_or_path": str(ASSETS / "demo_base")}, preset="demo")
    app.first_step = "folders"
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.screen.query("#source"))
        app.screen.query_one("#source", Input).value = str(photos)
        await until(pilot, lambda: "are no longer the demo's" in text(app))


async def test_the_reason_of_a_preset_is_in_the_help_of_its_setting(smith: Smith, until: Until, text: Shown) -> None:
    assert "overtrains a person" in preset_reasons("sd15-realistic")["training.max_train_steps"]
    app = smith("parameters")
    app.first_step = "parameters"
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.screen.query(FieldList) and app.screen.query_one(FieldList).key)
        assert app.screen.query_one(FieldList).key == "network.network_dim"
        about = app.screen.query_one("#about", Static)
        await until(pilot, lambda: "Why: a face needs 16-32" in str(about.render()))
        assert preset_reasons("no-such-preset") == {}


async def test_y_copies_a_setting(smith: Smith, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    monkeypatch.setattr(LoraSmithApp, "copy_to_clipboard", lambda _app, text: copied.append(text))
    app = smith("parameters")
    app.first_step = "parameters"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.query(FieldList) and app.screen.query_one(FieldList).key)
        await pilot.press("y")
        await until(pilot, lambda: copied == ["network.network_dim=32"])
