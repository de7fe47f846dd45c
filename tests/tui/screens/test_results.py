"""The results of a run: files, samples side by side, and the way on."""

from __future__ import annotations

import json
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from textual.widgets import Input

from engine.errors import StorageError
from engine.models.header import read_header
from engine.runs import RunDir
from engine.runs.events import MeasuresEvent, ValidationEvent
from engine.runs.remarks import read_remarks
from tests.fake_run import PROMPTS, PlayedTrainer, prepared_run
from tui.app import LoraSmithApp
from tui.screens.ask import AskScreen
from tui.screens.ask_text import AskTextScreen
from tui.screens.dashboard import DashboardScreen
from tui.screens.file_actions import opener
from tui.screens.parameters import ParametersScreen
from tui.screens.results import ResultsScreen
from tui.widgets.field import FieldList
from tui.widgets.file_table import FileTable
from tui.widgets.gallery import Gallery

NARROW, WIDE = (80, 24), (120, 36)
Until = Callable[..., Awaitable[None]]
Text = Callable[[LoraSmithApp], str]
Open = Callable[[RunDir], LoraSmithApp]


@pytest.fixture
def run_dir(home: Path) -> RunDir:
    """A finished run with three files; the second learned most."""
    made = prepared_run(home)
    trainer = PlayedTrainer(made)
    trainer.events.emit(ValidationEvent(step=0, loss=0.3))
    for loss in (0.2, 0.15, 0.18):
        trainer.train(10)
        trainer.save(validation_loss=loss)
        trainer.sample()
    trainer.end()
    return made


def write_small_lora(path: Path) -> None:
    """One layer of a LoRA for SD1.5."""
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{module}.lora_down.weight": np.ones((4, 320), np.float32),
        f"{module}.lora_up.weight": np.ones((320, 4), np.float32),
        f"{module}.alpha": np.array(4, np.float32),
    }
    save_file(tensors, path)


def draw_base(run_dir: RunDir) -> None:
    """Samples of step 0, reported by an event as if they had come first."""
    samples = []
    for index, prompt in enumerate(PROMPTS):
        path = run_dir.samples / f"robot_000000_{index:02d}.png"
        Image.new("RGB", (16, 16), (9, 100 * index, 50)).save(path)
        samples.append({"v": 1, "seq": 900 + index, "time": 0, "type": "sample", "path": str(path), "prompt": prompt,
                        "index": index, "step": 0})  # fmt: skip
    with run_dir.events_path.open("a") as log:
        log.writelines(json.dumps(sample) + "\n" for sample in samples)


@pytest.fixture
def showing(smith: Callable[..., LoraSmithApp]) -> Open:
    """showing(run_dir): the app that begins with the run's dashboard."""

    def begin(run_dir: RunDir) -> LoraSmithApp:
        app = smith(step="hardware")
        app.first_run = run_dir
        return app

    return begin


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_files_with_their_verdicts_and_the_best_marked(
    showing: Open, run_dir: RunDir, until: Until, text: Text, size: tuple[int, int]
) -> None:
    async with showing(run_dir).run_test(size=size) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "✓ good ● best" in text(pilot.app))
        shown = text(pilot.app)
        for expected in ("3 files · 6 samples", "robot-step00000010.safetensors", "↓ undertrained", "↑ overtrained",
                         "33 %", "40 %", "The loss is 50 % lower on validation images than the base model's.",
                         "u Use", "w What now", "p Try", "t Train on", "c Copy path", "esc Back"):  # fmt: skip
            assert expected in shown, expected
        assert shown.count("● best") == 1
        await pilot.press("down")
        await until(pilot, lambda: "Since then the run has unlearned." in text(pilot.app))
        await pilot.press("up", "up")
        await until(pilot, lambda: "The run learns more after this file." in text(pilot.app))


async def test_one_key_takes_the_file_into_use(
    showing: Open, run_dir: RunDir, until: Until, text: Text, tmp_path: Path
) -> None:
    """The folder is remembered, and a file that is there already is replaced only when that is wanted."""
    write_small_lora(run_dir.lora_path(step=20))
    folder = tmp_path / "loras"
    folder.mkdir()
    async with showing(run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "● best" in text(pilot.app))
        await pilot.press("u")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskTextScreen))
        await pilot.press(*"nowhere", "enter")
        await until(pilot, lambda: "nowhere is not a folder." in text(pilot.app))
        pilot.app.screen.query_one(Input).value = str(folder)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskScreen))
        assert "Move the 2 other files away?" in text(pilot.app)
        await pilot.press("enter")
        await until(pilot, lambda: "Ready for use:" in text(pilot.app))
        assert run_dir.lora_path(step=10).is_file()
        metadata = read_header(folder / "robot.safetensors").metadata
        assert metadata["modelspec.trigger_phrase"] == "robot" and metadata["lorasmith.strength"] == "0.8"
        await pilot.press("u")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskTextScreen))
        assert pilot.app.screen.query_one(Input).value == str(folder)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskScreen))
        await until(pilot, lambda: "A file of that name exists already" in text(pilot.app))
        await pilot.press("escape")
        assert read_header(folder / "robot.safetensors").metadata == metadata
        await pilot.press("u")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskTextScreen))
        await pilot.press("enter")
        await until(pilot, lambda: "A file of that name exists already" in text(pilot.app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "Move the 2 other files away?" in text(pilot.app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "The other files are in" in text(pilot.app) and "1 file" in text(pilot.app))
        away = sorted(path.name for path in (run_dir.path / "other_files").iterdir())
        assert away == [run_dir.lora_path(step=step).name for step in (10, 30)]
        assert run_dir.lora_path(step=20).is_file()


async def test_a_file_is_copied_under_another_name(
    showing: Open, run_dir: RunDir, until: Until, text: Text, tmp_path: Path
) -> None:
    write_small_lora(run_dir.lora_path(step=20))
    (tmp_path / "loras").mkdir()
    async with showing(run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "● best" in text(pilot.app))
        await pilot.press("u")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskTextScreen))
        pilot.app.screen.query_one(Input).value = str(tmp_path / "nowhere" / "tin.safetensors")
        await pilot.press("enter")
        await until(pilot, lambda: "is not a folder." in " ".join(text(pilot.app).split()))
        pilot.app.screen.query_one(Input).value = str(tmp_path / "loras" / "tin.safetensors")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskScreen))
        await pilot.press("enter", "u")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskTextScreen))
        assert pilot.app.screen.query_one(Input).value == str(tmp_path / "loras")
    assert [path.name for path in (tmp_path / "loras").iterdir()] == ["tin.safetensors"]


async def test_a_favourite_is_marked_and_stays_with_the_run(
    showing: Open, run_dir: RunDir, until: Until, text: Text, tmp_path: Path
) -> None:
    """It survives a restart, is not moved away with the others, and the mark is not that of the recommended file."""
    write_small_lora(run_dir.lora_path(step=20))
    async with showing(run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "● best" in text(pilot.app))
        await pilot.press("down", "f")
        await until(pilot, lambda: "★ robot-step00000030.safetensors" in text(pilot.app))
        assert text(pilot.app).count("★") == 1 and text(pilot.app).count("● best") == 1
        assert read_remarks(run_dir).favourites == {"robot-step00000030.safetensors"}
        await pilot.press("up", "f")
        await until(pilot, lambda: text(pilot.app).count("★") == 2)
        await pilot.press("f")
        await until(pilot, lambda: text(pilot.app).count("★") == 1)
    async with showing(run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "★ robot-step00000030.safetensors" in text(pilot.app))
        await pilot.press("u")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskTextScreen))
        pilot.app.screen.query_one(Input).value = str(tmp_path)
        await pilot.press("enter")
        await until(pilot, lambda: "Move the 1 other file away?" in text(pilot.app))


async def test_b_flips_to_the_base_and_enter_shows_one_alone(
    showing: Open, run_dir: RunDir, until: Until, text: Text
) -> None:
    draw_base(run_dir)
    async with showing(run_dir).run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "▸ step 20" in text(pilot.app) and "base" in text(pilot.app))
        gallery = pilot.app.screen.query_one(Gallery)
        await pilot.press("tab", "b")
        await until(pilot, lambda: "▸ base" in text(pilot.app))
        await pilot.press("b", "enter")
        await until(pilot, lambda: gallery.step == 20 and sum(tile.display for tile in gallery.query(".tile")) == 1)
        await pilot.press("enter")
        await until(pilot, lambda: sum(tile.display for tile in gallery.query(".tile")) > 1)


async def test_a_file_brings_its_samples_into_view(showing: Open, run_dir: RunDir, until: Until, text: Text) -> None:
    async with showing(run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "▸ step 20" in text(pilot.app))
        await pilot.press("up")
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
        await until(pilot, lambda: "● best" in text(pilot.app))
        await pilot.press("c")
        assert pilot.app.clipboard == str(run_dir.lora_path(step=20))
        await pilot.press("o")
        assert pilot.app.clipboard == str(run_dir.path)
        await until(pilot, lambda: "Copied (if your terminal allows it):" in text(pilot.app))


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
        await until(pilot, lambda: "● best" in text(pilot.app))
        await pilot.press("i")
        await until(pilot, lambda: "Contact sheet: " in " ".join(text(pilot.app).split()))
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
        await pilot.press("i")
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
        await until(pilot, lambda: "● best" in text(app))
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, ParametersScreen))
        assert app.draft.get("network.network_weights") == str(run_dir.lora_path(step=20))
        config = app.draft.config()
        assert config.saving.output_name == "robot-2" and config.saving.output_dir == ""
        assert config.trigger == "robot" and config.training.max_train_epochs == 3
        await until(pilot, lambda: "3 epochs more from robot-step00000020" in text(app))
        await until(pilot, lambda: isinstance(app.focused, FieldList))
        await pilot.press("slash", *"trigger")
        await until(
            pilot, lambda: [line for line in text(app).splitlines() if "Trigger word" in line and "robot " in line]
        )
        await pilot.press("escape", "f1")
        await until(pilot, lambda: "begins with a file of an earlier one" in text(app))
        await pilot.press("escape", "escape")
        await until(pilot, lambda: isinstance(app.screen, ResultsScreen))
        assert app.screen.run_dir.path == run_dir.path


async def test_training_on_asks_before_it_forgets_another_draft(
    showing: Open, run_dir: RunDir, until: Until, text: Text
) -> None:
    app = showing(run_dir)
    app.draft.set("saving.output_name", "other")
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "finished" in text(app))
        await pilot.press("v")
        await until(pilot, lambda: "● best" in text(app))
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


async def test_a_run_without_files_shows_what_to_press(showing: Open, home: Path, until: Until, text: Text) -> None:
    made = prepared_run(home)
    trainer = PlayedTrainer(made)
    trainer.train(1)
    trainer.end("stopped", 6)
    async with showing(made).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "stopped" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "This run has saved no LoRA." in text(pilot.app))
        await pilot.press("c", "t")
        assert isinstance(pilot.app.screen, ResultsScreen) and pilot.app.clipboard == ""


async def test_in_few_rows_the_part_with_the_focus_has_the_room(
    showing: Open, run_dir: RunDir, until: Until, text: Text
) -> None:
    """Files and verdict, after Tab the samples with the chosen file above them, and back."""
    async with showing(run_dir).run_test(size=(60, 16)) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "● best" in text(pilot.app))
        gallery = pilot.app.screen.query_one(Gallery)
        assert "lower on validation images" in text(pilot.app) and "─Samples (Tab)─" in text(pilot.app)
        await pilot.press("down", "tab")
        await until(pilot, lambda: gallery.size.height >= 7)
        await until(pilot, lambda: "▸ step 30" in text(pilot.app) and "robot-step00000030" in text(pilot.app))
        assert "prompt 1 of 2" in text(pilot.app) and "robot-step00000010" not in text(pilot.app)
        await pilot.press("tab")
        await until(pilot, lambda: "since then" in text(pilot.app).lower() and "robot-step00000010" in text(pilot.app))


async def test_the_samples_have_the_whole_screen(showing: Open, run_dir: RunDir, until: Until, text: Text) -> None:
    async with showing(run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: "robot-step00000010.safetensors" in text(pilot.app))
        await pilot.press("f11")
        await until(pilot, lambda: "prompt 1 of 2" not in text(pilot.app))
        assert "robot-step00000010.safetensors" in text(pilot.app), "files and verdict have it"
        await pilot.press("f11")
        await until(pilot, lambda: "prompt 1 of 2" in text(pilot.app))
        await pilot.press("tab", "f11")
        await until(pilot, lambda: "robot-step00000010.safetensors" not in text(pilot.app))
        assert "prompt 1 of 2" in text(pilot.app) and "F11 All parts" in text(pilot.app)
        await pilot.press("f11")
        await until(pilot, lambda: "robot-step00000010.safetensors" in text(pilot.app))


async def test_a_verdict_that_does_not_fit_scrolls(showing: Open, home: Path, until: Until, text: Text) -> None:
    """Tab reaches it only then; F11 shows files and verdict alone."""
    run_dir = prepared_run(home)
    trainer = PlayedTrainer(run_dir)
    trainer.events.emit(ValidationEvent(step=0, loss=0.3))
    for loss in (0.2, 0.15):
        trainer.train(10)
        trainer.save(validation_loss=loss)
        trainer.events.emit(MeasuresEvent(step=trainer.step, response=0.3, drift=0.7, seconds=1.0))
    trainer.end()
    last = "describe in the captions what should stay changeable."
    async with showing(run_dir).run_test(size=NARROW) as pilot:
        app = pilot.app
        await until(pilot, lambda: "finished" in text(app))
        await pilot.press("v")
        await until(pilot, lambda: "● best of these" in text(app) and "Verdict (Tab: all of it)" in text(app))
        assert last not in " ".join(text(app).split())
        await pilot.press("tab", "end")
        await until(pilot, lambda: last in " ".join(text(app).split()))
        await pilot.press("shift+tab", "f11")
        await until(pilot, lambda: last in " ".join(text(app).split()) and "Verdict (Tab" not in text(app))
        assert isinstance(app.focused, FileTable) and "This run has no samples." not in text(app)
        await pilot.press("f11")
        await until(pilot, lambda: "This run has no samples." in text(app))


@pytest.mark.parametrize(
    ("size", "title", "figures"),
    [((60, 16), "Files · Epoch, Step, Response are shown below", "Epoch 1 · Step 20 · Response –"),
     ((80, 24), "Files · Epoch is shown below", "Epoch 1"), ((100, 24), "Files", "")],
)  # fmt: skip
async def test_figures_without_room_in_the_table_are_below_it(
    showing: Open, run_dir: RunDir, until: Until, text: Text, size: tuple[int, int], title: str, figures: str
) -> None:
    async with showing(run_dir).run_test(size=size) as pilot:
        app = pilot.app
        await until(pilot, lambda: "finished" in text(app))
        await pilot.press("v")
        await until(pilot, lambda: "● best" in text(app) and figures in text(app))
        table = app.screen.query_one(FileTable)
        assert str(table.border_title) == title and table.further_figures == figures
        assert table.virtual_size.width <= table.content_size.width
