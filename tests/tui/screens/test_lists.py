"""What every list can: filter, sort, the keys of a pager, copy; and the way out of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.config import RunConfig
from engine.runs import prepare_run, write_exit
from engine.runs.layout import write_record
from tests.fake_run import PlayedTrainer, prepared_run
from tui.app import LoraSmithApp
from tui.screens.home import HomeScreen
from tui.screens.steps import STEPS
from tui.widgets.caption_list import CaptionList
from tui.widgets.file_table import FileTable
from tui.widgets.filter_line import FilterLine
from tui.widgets.lines import Tail
from tui.widgets.run_table import RunTable

Until = Callable[..., Awaitable[None]]
Smith = Callable[..., LoraSmithApp]
Shown = Callable[[LoraSmithApp], str]


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was put on the clipboard."""
    texts: list[str] = []
    monkeypatch.setattr(LoraSmithApp, "copy_to_clipboard", lambda _app, text: texts.append(text))
    return texts


def make(name: str, state: str, step: int) -> Path:
    run_dir = prepare_run(RunConfig().changed(saving={"output_name": name}))
    write_record(run_dir.state_path, {"state": "running", "step": step, "max_train_steps": 20, "pid": 2**22 + 1})
    write_exit(run_dir, state, {"finished": 0, "stopped": 6}.get(state, 1), step, message=f"{state} at step {step}")
    return run_dir.path


def names(app: LoraSmithApp) -> list[str]:
    table = app.screen.query_one(RunTable)
    return [table.get_row_at(row)[0].plain for row in range(table.row_count)]


async def test_the_runs_are_filtered_and_every_way_back_shows_all(
    smith: Smith, home: Path, until: Until, text: Shown
) -> None:
    make("anna", "finished", 20)
    make("bob", "stopped", 5)
    make("annabel", "failed", 3)
    app = smith()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.query(RunTable) and len(names(app)) == 3)
        for back in (["escape"], ["enter", "escape"], ["enter", "slash", "escape"]):
            await pilot.press("slash", *"anna")
            await until(pilot, lambda: sorted(names(app)) == ["anna", "annabel"])
            assert "2 of 3" in text(app)
            await pilot.press(*back)
            await until(pilot, lambda: len(names(app)) == 3 and not app.screen.query(FilterLine))
            assert isinstance(app.focused, RunTable) and isinstance(app.screen, HomeScreen)
        await pilot.press("slash", *"failed", "enter")
        await until(pilot, lambda: names(app) == ["annabel"])
        await pilot.press("slash", *" nobody")
        await until(pilot, lambda: "No run fits the filter." in text(app) and names(app) == [])


async def test_the_runs_are_sorted_and_the_cursor_stays_on_its_run(
    smith: Smith, home: Path, until: Until, text: Shown
) -> None:
    make("carl", "finished", 20)
    make("anna", "stopped", 5)
    make("bob", "failed", 3)
    app = smith()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.query(RunTable) and len(names(app)) == 3)
        usual = names(app)
        await pilot.press("G")
        table = app.screen.query_one(RunTable)
        await until(pilot, lambda: table.cursor_row == 2)
        run = table.chosen_key
        await pilot.press("s")
        await until(pilot, lambda: names(app) == ["anna", "bob", "carl"])
        assert table.chosen_key == run and "Sorted by name." in text(app)
        for _order in range(len(RunTable.ORDERS) - 1):
            await pilot.press("s")
        await until(pilot, lambda: names(app) == usual)


async def test_a_click_on_a_heading_sorts_another_one_reverses_and_a_third_one_undoes_it(
    smith: Smith, home: Path, until: Until, text: Shown
) -> None:
    make("carl", "finished", 20)
    make("anna", "stopped", 5)
    app = smith()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.query(RunTable) and len(names(app)) == 2)
        usual = names(app)
        await pilot.click(RunTable, offset=(4, 1))
        await until(pilot, lambda: names(app) == ["anna", "carl"] and app.screen.query_one(RunTable).order == 1)
        await until(pilot, lambda: "▲" in text(app))
        await pilot.click(RunTable, offset=(36, 1))
        await until(pilot, lambda: names(app) == ["carl", "anna"])
        await pilot.click(RunTable, offset=(36, 1))
        await until(pilot, lambda: names(app) == ["anna", "carl"] and "▼" in text(app))
        await pilot.click(RunTable, offset=(36, 1))
        await until(pilot, lambda: names(app) == usual and app.screen.query_one(RunTable).order == 0)
        assert "▲" not in text(app) and "▼" not in text(app)
        await pilot.press("S")
        await until(pilot, lambda: names(app) == usual[::-1])


async def test_a_pager_s_keys_move_and_q_quits(smith: Smith, home: Path, until: Until) -> None:
    for name in ("a", "b", "c"):
        make(name, "finished", 20)
    app = smith()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.query(RunTable) and len(names(app)) == 3)
        table = app.screen.query_one(RunTable)
        for key, row in (("j", 1), ("j", 2), ("k", 1), ("G", 2), ("g", 0)):
            await pilot.press(key)
            await until(pilot, lambda row=row: table.cursor_row == row)
        await pilot.press("q")
        await until(pilot, lambda: app._exit)


async def test_y_copies_the_path_of_the_run_and_shows_it(
    smith: Smith, home: Path, until: Until, text: Shown, copied: list[str]
) -> None:
    path = make("anna", "finished", 20)
    app = smith()
    async with app.run_test(size=(160, 24)) as pilot:
        await until(pilot, lambda: app.screen.query(RunTable) and app.screen.query_one(RunTable).chosen)
        await pilot.press("y")
        await until(pilot, lambda: copied == [str(path)] and "Copied (if your terminal allows it)" in text(app))


@pytest.fixture
def trainer(home: Path) -> Any:
    played = PlayedTrainer(prepared_run(home))
    yield played
    played.lock.release()


async def test_events_are_filtered_and_copied(
    smith: Smith, trainer: PlayedTrainer, until: Until, text: Shown, copied: list[str]
) -> None:
    trainer.train(3)
    trainer.save()
    trainer.sample()
    app = smith()
    app.first_run = trainer.run_dir
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "3 of 100" in text(app))
        await pilot.press("3")
        await until(pilot, lambda: isinstance(app.focused, Tail) and "2 samples, step 3" in text(app))
        await pilot.press("slash", *"saved robot", "enter")
        await until(pilot, lambda: "samples, step" not in text(app) and "Saved and verified robot-step" in text(app))
        await pilot.press("y")
        await until(pilot, lambda: len(copied) == 1)
        assert "Saved and verified robot-step" in copied[0] and "samples" not in copied[0]
        await pilot.press("escape")
        await until(pilot, lambda: "2 samples, step 3" in text(app))
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))


async def test_files_are_sorted(smith: Smith, trainer: PlayedTrainer, until: Until, text: Shown) -> None:
    for _number in range(3):
        trainer.train(10)
        trainer.save(validation_loss=0.3)
    trainer.end()
    app = smith()
    app.first_run = trainer.run_dir
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "finished" in text(app))
        await pilot.press("v")
        await until(pilot, lambda: app.screen.query(FileTable) and app.screen.query_one(FileTable).row_count == 3)
        table = app.screen.query_one(FileTable)
        await pilot.press("slash", *"20", "enter")
        await until(pilot, lambda: table.row_count == 1 and table.chosen_key.endswith("-step00000020.safetensors"))
        await pilot.press("escape", "s")
        await until(pilot, lambda: table.row_count == 3 and "Sorted by name." in text(app))


@pytest.fixture
def photos(home: Path) -> Path:
    folder = home / "photos"
    folder.mkdir()
    for name, caption in (("a", "anna by the sea, blue"), ("b", ""), ("c", "a hat"), ("d", "anna")):
        Image.new("RGB", (64, 64), "red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption)
    return folder


@pytest.fixture
def captions(smith: Smith, photos: Path) -> LoraSmithApp:
    values = {"dataset.train_data_dir": str(photos), "saving.output_name": "anna"}
    app = smith("captions", values, extras={"folders.take_in": "leave"})
    app.first_step = "captions"
    return app


async def test_captions_are_filtered_sorted_and_copied(
    captions: LoraSmithApp, until: Until, text: Shown, copied: list[str]
) -> None:
    async with captions.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: "3 of 4 images" in text(captions))
        rows = captions.screen.query_one(CaptionList)
        await pilot.press("slash", *"anna", "enter")
        await until(pilot, lambda: rows.shown_of_all() == (2, 4))
        await pilot.press("j", "y")
        await until(pilot, lambda: rows.position == 3 and copied == ["anna"])
        await pilot.press("escape", "g", "s")
        await until(pilot, lambda: rows.shown_of_all() == (4, 4) and rows._places == [1, 2, 0, 3])
        assert captions.screen.STEP == "captions", "Escape has cleared the filter"  # type: ignore[attr-defined]
        await pilot.press("s")
        await until(pilot, lambda: rows._places == [1, 3, 2, 0])


async def test_u_undoes_the_last_edit_of_one_or_of_all(captions: LoraSmithApp, until: Until, photos: Path) -> None:
    def read(name: str) -> str:
        return (photos / f"{name}.txt").read_text().strip()

    async with captions.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: captions.screen.query_one(CaptionList).count == 4)
        await pilot.press("enter", *" and sky", "escape")
        await until(pilot, lambda: read("a") == "anna by the sea, blue and sky")
        await pilot.press("w")
        await until(pilot, lambda: read("c") == "anna a hat")
        assert read("a").startswith("anna by") and read("b") == "", "it has the word; it has no caption"
        await pilot.press("u")
        await until(pilot, lambda: read("c") == "a hat")
        assert read("a") == "anna by the sea, blue and sky"
        await until(pilot, lambda: not captions.screen._busy)  # type: ignore[attr-defined]
        await pilot.press("u")
        await until(pilot, lambda: read("a") == "anna by the sea, blue")


@pytest.mark.parametrize("step", [step.name for step in STEPS])
async def test_q_leaves_a_step_only_where_no_text_is_typed(smith: Smith, home: Path, until: Until, step: str) -> None:
    app = smith(step)
    app.first_step = step
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: getattr(app.screen, "STEP", "") == step)
        screen = app.screen
        app.screen.set_focus(None)
        await pilot.press("q")
        await until(pilot, lambda: app.screen is not screen)
