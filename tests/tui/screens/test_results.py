"""The results of a run: files, samples side by side, and the way on."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from engine.errors import StorageError
from engine.runs import RunDir
from tests.fake_run import PlayedTrainer, made_run
from tui.app import LoraSmithApp
from tui.screens.ask import AskScreen
from tui.screens.dashboard import DashboardScreen
from tui.screens.parameters import ParametersScreen
from tui.screens.results import ResultsScreen, next_name, opener
from tui.widgets.field import FieldList
from tui.widgets.gallery import Gallery

NARROW, WIDE = (80, 24), (120, 36)
Until = Callable[..., Awaitable[None]]
Text = Callable[[LoraSmithApp], str]
Open = Callable[[RunDir], LoraSmithApp]


@pytest.fixture
def run_dir(home: Path) -> RunDir:
    """A finished run with three files; the second has the lowest held-out loss."""
    made = made_run(home)
    trainer = PlayedTrainer(made)
    for held_out in (0.2, 0.15, 0.18):
        trainer.train(10)
        trainer.save(held_out=held_out)
        trainer.sample()
    trainer.end()
    return made


@pytest.fixture
def showing(smith: Callable[..., LoraSmithApp]) -> Open:
    """showing(run_dir): the app that begins with the run's dashboard."""

    def begin(run_dir: RunDir) -> LoraSmithApp:
        app = smith(step="hardware")
        app.first_run = run_dir
        return app

    return begin


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_files_with_the_lowest_held_out_loss_marked(
    showing: Open, run_dir: RunDir, until: Until, text: Text, size: tuple[int, int]
) -> None:
    async with showing(run_dir).run_test(size=size) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "0.1500 ● lowest" in text(pilot.app))
        shown = text(pilot.app)
        for expected in ("3 files · 6 samples", "robot-step00000010.safetensors", "1.0 MiB", "0.2000", "0.1800",
                         "t Train on", "g Sheet", "o Folder", "c Copy", "^q Quit"):  # fmt: skip
            assert expected in shown, expected
        assert shown.count("● lowest") == 1


async def test_a_file_brings_its_samples_into_view(showing: Open, run_dir: RunDir, until: Until, text: Text) -> None:
    async with showing(run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "▸ step 30" in text(pilot.app))
        await pilot.press("up", "up")
        await until(pilot, lambda: "▸ step 10" in text(pilot.app))
        gallery = pilot.app.screen.query_one(Gallery)
        await pilot.press("tab", "right", "down")
        assert gallery.step == 20
        await until(pilot, lambda: "step 20 · prompt 2 of 2: a [robot] on a beach" in text(pilot.app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, DashboardScreen))


async def test_paths_are_shown_and_copied(
    showing: Open, run_dir: RunDir, until: Until, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    async with showing(run_dir).run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "lowest" in text(pilot.app))
        await pilot.press("up", "c")
        assert pilot.app.clipboard == str(run_dir.lora_path(step=20))
        await pilot.press("o")
        assert pilot.app.clipboard == str(run_dir.path)
        await until(pilot, lambda: "Copied, if the terminal allows it: " in text(pilot.app))


def test_a_folder_opens_only_before_a_desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "xdg-open"
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert opener({}) is None
    assert opener({"DISPLAY": ":0"}) == opener({"WAYLAND_DISPLAY": "wayland-0"}) == str(program)
    monkeypatch.setattr("sys.platform", "darwin")
    assert opener({}) == "open" and opener({"SSH_CONNECTION": "somewhere"}) is None


async def test_a_contact_sheet(showing: Open, run_dir: RunDir, until: Until, text: Text) -> None:
    async with showing(run_dir).run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "lowest" in text(pilot.app))
        await pilot.press("g")
        await until(pilot, lambda: "Contact sheet: " in text(pilot.app))
        assert (run_dir.samples / "robot_sheet.png").is_file()


async def test_a_contact_sheet_that_cannot_be_written(
    showing: Open, run_dir: RunDir, until: Until, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("No space is left.")

    monkeypatch.setattr("engine.runs.contact.write_sheet", full)
    async with showing(run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: isinstance(pilot.app.screen, ResultsScreen))
        await pilot.press("g")
        await until(pilot, lambda: "No space is left." in text(pilot.app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, ResultsScreen))
        assert "Drawing" not in text(pilot.app)


async def test_training_on_takes_settings_and_file_into_the_wizard(
    showing: Open, run_dir: RunDir, until: Until, text: Text
) -> None:
    app = showing(run_dir)
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "finished" in text(app))
        await pilot.press("v")
        await until(pilot, lambda: "lowest" in text(app))
        await pilot.press("up", "t")
        await until(pilot, lambda: isinstance(app.screen, ParametersScreen))
        assert app.draft.get("network.network_weights") == str(run_dir.lora_path(step=20))
        config = app.draft.config()
        assert config.saving.output_name == "robot-2" and config.saving.output_dir == ""
        assert config.trigger == "robot"
        await until(pilot, lambda: isinstance(app.focused, FieldList))
        await pilot.press("slash", *"trigger")
        await until(
            pilot, lambda: [line for line in text(app).splitlines() if "Trigger word" in line and "robot " in line]
        )


async def test_training_on_asks_before_it_forgets_another_draft(
    showing: Open, run_dir: RunDir, until: Until, text: Text
) -> None:
    app = showing(run_dir)
    app.draft.set("saving.output_name", "other")
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "finished" in text(app))
        await pilot.press("v")
        await until(pilot, lambda: "lowest" in text(app))
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ResultsScreen))
        assert app.draft.get("saving.output_name") == "other"
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(app.screen, ParametersScreen))
        assert app.draft.get("saving.output_name") == "robot-2"


async def test_a_run_without_files_says_what_to_press(showing: Open, home: Path, until: Until, text: Text) -> None:
    made = made_run(home)
    trainer = PlayedTrainer(made)
    trainer.train(1)
    trainer.end("stopped", 6)
    async with showing(made).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "stopped" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "No LoRA is saved yet" in text(pilot.app))
        await pilot.press("c", "t")
        assert isinstance(pilot.app.screen, ResultsScreen) and pilot.app.clipboard == ""


@pytest.mark.parametrize(("name", "following"), [("robot", "robot-2"), ("robot-2", "robot-3"), ("-3", "-3-2")])
def test_the_next_name(name: str, following: str) -> None:
    assert next_name(name) == following
