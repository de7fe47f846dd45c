"""Home: every run shown for what it is, and what can be done with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, OptionList

from engine.config import RunConfig
from engine.runs import RunDir, prepare_run, true_state, write_exit
from engine.runs.launch import launch
from engine.runs.layout import write_record
from engine.runs.remarks import LONGEST_TITLE, Remarks, read_remarks
from tests.fake_run import trained_on_copies
from tui.app import LoraSmithApp
from tui.screens.ask import AskScreen
from tui.screens.ask_text import AskTextScreen
from tui.screens.folders import FoldersScreen
from tui.screens.home import HomeScreen
from tui.screens.model import ModelScreen
from tui.screens.review import ReviewScreen
from tui.setup.draft import Draft
from tui.setup.folder_entries import Entries
from tui.setup.preset_file import kept_notes
from tui.widgets.hanging import Hanging
from tui.widgets.path_input import PathInput

FAKE = Path(__file__).resolve().parents[2] / "engine" / "runs" / "fake_trainer.py"
NARROW = (80, 24)
Until = Callable[..., Awaitable[None]]
Smith = Callable[..., LoraSmithApp]
Shown = Callable[[LoraSmithApp], str]


def make(name: str, state: str = "", **record: Any) -> RunDir:
    """A run in ./<name>; with a `state` it has ended so, with a `record` its state.json has that."""
    run_dir = prepare_run(RunConfig().changed(saving={"output_name": name}))
    write_record(run_dir.state_path, {"state": "running", "step": 5, "max_train_steps": 20, "pid": 2**22 + 1, **record})
    if state:
        write_exit(run_dir, state, {"finished": 0, "stopped": 6}.get(state, 1), 5, message=f"{state} at step 5")
    return run_dir


@pytest.fixture
def live(home: Path) -> Iterator[RunDir]:
    """A run that a fake trainer works on."""
    run_dir = prepare_run(RunConfig().changed(saving={"output_name": "alive"}))
    process = launch(run_dir, command=[sys.executable, str(FAKE), str(run_dir.path), "9999", "0.02"])
    yield run_dir
    process.kill()
    process.wait()


def ready(app: LoraSmithApp) -> Callable[[], bool]:
    """Whether the runs have been looked for."""
    return lambda: isinstance(app.screen, HomeScreen) and app.screen.runs is not None


async def point_at(pilot: Pilot[Any], until: Until, name: str) -> None:
    """Move the cursor down to a run."""
    screen = pilot.app.screen
    assert isinstance(screen, HomeScreen)
    await until(pilot, screen.chosen)
    for _ in range(len(screen.runs or {})):
        run = screen.chosen()
        if run is not None and run.name == name:
            return
        await pilot.press("down")
    raise AssertionError(f"no run {name}")


async def test_without_a_run_it_shows_what_to_press(smith: Smith, until: Until, text: Shown) -> None:
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "There is no run yet" in text(app))
        assert "n  Set up a new run" in text(app) and "lorasmith demo" in text(app)
        assert text(app).startswith(" LoRA Smith"), "its own style sheet is in force"
        assert not app.screen.query(DataTable)


async def test_each_run_is_shown_for_what_it_is(smith: Smith, live: RunDir, until: Until, text: Shown) -> None:
    make("good", "finished")
    make("[red]odd", "stopped")
    failed = make("sad", "failed")
    write_exit(failed, "failed", 4, 5, message="Out of memory at step 5.", hint="Use batch 1:\n  resume --x")
    lost = make("gone")
    lost.events_path.write_text('{"v":1,"seq":0,"time":1.0,"type":"step","step":3,"loss_average":0.125}\n{"v":1,"s')
    make("far", host="gpu-server-7")
    broken = make("broken", "stopped")
    broken.meta_path.write_text("{")
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "▶ running" in text(app))
        for words in ("✓ finished", "□ stopped", "✗ failed", "! lost", "? unknown", "5/20  25 %", "[red]odd"):
            assert words in text(app)
        for name, words in {
            "good": "5 of 20 (25 %)",
            "sad": "! Use batch 1:\n    resume --x",
            "gone": "The last event is incomplete",
            "far": "It ran on gpu-server-7",
            "broken": "meta.json) cannot be read",
            "alive": "Its trainer is process",
        }.items():
            await pilot.press("ctrl+home")
            await point_at(pilot, until, name)
            await until(pilot, lambda words=words: words in text(app))
        await pilot.press("ctrl+home")
        await point_at(pilot, until, "gone")
        await until(pilot, lambda: "loss 0.1250" in text(app))


async def test_only_changed_cells_are_written(
    smith: Smith, home: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("one", "finished")
    two = make("two")
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        screen = app.screen
        assert isinstance(screen, HomeScreen)
        await until(pilot, screen.chosen)
        await pilot.pause()
        table, changed, cleared = screen.query_one(DataTable), [], []
        update, clear = table.update_cell, table.clear
        monkeypatch.setattr(table, "update_cell", lambda *cell: (changed.append(cell[:2]), update(*cell)))
        monkeypatch.setattr(table, "clear", lambda: (cleared.append(1), clear()))
        write_exit(two, "stopped", 6, 5)
        screen._look()
        await until(pilot, lambda: changed)
        assert changed == [(str(two.path), "state")] and not cleared


async def test_it_looks_only_while_it_is_shown(
    smith: Smith, home: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.screens.home.SECONDS", 0.01)
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, ready(app))
        screen = app.screen
        assert isinstance(screen, HomeScreen)
        looks: list[int] = []
        monkeypatch.setattr(screen, "_look", lambda: looks.append(1))
        await pilot.press("f1")
        await until(pilot, lambda: app.screen is not screen)
        await pilot.pause()
        del looks[:]
        screen.post_message(HomeScreen.RunsRead([]))
        await pilot.pause()
        assert not looks
        await pilot.press("escape")
        await until(pilot, lambda: looks)


async def test_deleting_asks_and_no_is_the_default(smith: Smith, home: Path, until: Until, text: Shown) -> None:
    run_dir = make("good", "finished")
    run_dir.lora_path().write_bytes(b"x" * 2**20)
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await point_at(pilot, until, "good")
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        assert "Delete good?" in text(app) and "MiB" in text(app)
        await pilot.press("enter")
        await until(pilot, ready(app))
        assert run_dir.is_run
        await pilot.press("delete")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("down", "enter")
        await until(pilot, lambda: not run_dir.path.exists())
        await until(pilot, lambda: "There is no run yet" in text(app))


async def test_a_live_run_is_stopped_and_not_deleted(smith: Smith, live: RunDir, until: Until, text: Shown) -> None:
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "▶ running" in text(app))
        await point_at(pilot, until, "alive")
        await pilot.press("d", "r")
        assert isinstance(app.screen, HomeScreen)
        assert "alive has not ended: stop it with x before you delete it." in text(app)
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("escape")
        assert true_state(live).live and not list(live.control.iterdir())
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("down", "enter")
        await until(pilot, lambda: true_state(live).state == "stopped")
        await until(pilot, lambda: "□ stopped" in text(app))


async def test_resume_starts_the_trainer(
    smith: Smith, home: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[RunDir] = []
    monkeypatch.setattr("tui.shell.begin.resume", lambda run_dir, **_: begun.append(run_dir))
    opened: list[RunDir] = []
    run_dir, far = make("halted", "stopped"), make("far", host="gpu-server-7")
    app = smith()
    monkeypatch.setattr(app, "open_run", opened.append)
    async with app.run_test(size=NARROW) as pilot:
        await point_at(pilot, until, "halted")
        await pilot.press("r")
        await until(pilot, lambda: opened == [run_dir])
        assert begun == [run_dir]
        await pilot.press("ctrl+home")
        await point_at(pilot, until, "far")
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("down", "enter")
        await until(pilot, lambda: begun == [run_dir, far])


async def test_a_resume_asks_where_something_changed_since(
    smith: Smith, home: Path, until: Until, text: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = trained_on_copies(home, "halted")
    write_exit(run_dir, "stopped", 6, 2)
    image = sorted((home / "images").rglob("*.png"))[0]
    image.unlink()
    opened: list[RunDir] = []
    app = smith()
    monkeypatch.setattr(app, "open_run", opened.append)
    monkeypatch.setattr("tui.shell.begin.start", lambda *_, **__: subprocess.Popen(["true"]))
    async with app.run_test(size=NARROW) as pilot:
        await point_at(pilot, until, "halted")
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        assert f"1 image is missing: {image.name}" in text(app)
        await pilot.press("down", "enter")
        await until(pilot, lambda: opened == [run_dir])


async def test_enter_opens(smith: Smith, home: Path, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make("good", "finished")
    app, opened = smith(), []
    monkeypatch.setattr(app, "open_run", opened.append)
    async with app.run_test(size=NARROW) as pilot:
        await point_at(pilot, until, "good")
        await pilot.press("enter")
        assert opened == [run_dir]


async def test_copy_takes_the_settings_and_asks_before_a_draft_is_forgotten(
    smith: Smith, home: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make("good", "finished")
    app, steps = smith(values={"saving.output_name": "draft"}), []
    monkeypatch.setattr(app, "go_to", steps.append)
    async with app.run_test(size=NARROW) as pilot:
        await point_at(pilot, until, "good")
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("enter")
        assert app.draft.get("saving.output_name") == "draft" and not steps
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("down", "enter")
        await until(pilot, lambda: steps == ["folders"])
        assert app.draft.preset == str(run_dir.config_path)
        assert app.draft.get("saving.output_name") == "good-2" and app.draft.config().saving.output_dir == ""
        assert app.draft.config().trigger == "good", "the captions have that word"


async def test_a_broken_configuration_is_not_copied(smith: Smith, home: Path, until: Until, text: Shown) -> None:
    make("good", "finished").config_path.write_text("[nonsense")
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await point_at(pilot, until, "good")
        await pilot.press("c")
        await until(pilot, lambda: "not valid TOML" in text(app))
        assert app.draft.preset == "sd15-realistic"


async def test_n_continues_or_starts_over(
    smith: Smith, home: Path, until: Until, text: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, steps = smith("captions", values={"saving.output_name": "dog"}, done=("hardware",)), []
    monkeypatch.setattr(app, "go_to", steps.append)
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "n  Continue setting up dog at Captions" in text(app))
        await pilot.press("n")
        await until(pilot, lambda: "You have an unfinished setup: dog" in text(app))
        await pilot.press("enter")
        assert steps == ["captions"] and app.draft.values
        await pilot.press("n")
        await until(pilot, lambda: app.screen.query(OptionList))
        await pilot.press("down", "enter")
        assert steps == ["captions", "hardware"] and not app.draft.values
        await pilot.press("n")
        assert steps == ["captions", "hardware", "hardware"]


async def test_the_settings_of_the_last_run_get_the_next_free_name(
    smith: Smith, home: Path, until: Until, text: Shown
) -> None:
    """Also while that run is training; its trigger word stays that of the captions."""
    make("dog", "finished")
    make("dog-2", "finished")
    photos = home / "photos"
    photos.mkdir()
    app = smith("review")
    Entries(place=str(home), name="dog", source=str(photos)).store(app.draft)
    app.draft.mark_started()
    async with app.run_test(size=NARROW) as pilot:
        await point_at(pilot, until, "dog")
        await pilot.press("n")
        await until(pilot, lambda: "With the settings of dog" in text(app) and "Start from scratch" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        assert isinstance(app.screen, FoldersScreen)
        assert (app.screen.entries.name, app.screen.entries.trigger) == ("dog-3", "dog")
        assert app.draft.config().trigger == "dog" and app.draft.config().saving.output_name == "dog-3"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_run_that_may_only_be_read(smith: Smith, home: Path, until: Until, text: Shown) -> None:
    run_dir = make("shared", "stopped")
    run_dir.private.chmod(0o555)
    try:
        app = smith()
        async with app.run_test(size=NARROW) as pilot:
            await until(pilot, lambda: "write permission" in text(app))
    finally:
        run_dir.private.chmod(0o755)


async def test_the_status_panel_of_a_small_terminal(smith: Smith, live: RunDir, until: Until, text: Shown) -> None:
    app = smith()
    async with app.run_test(size=(40, 10)) as pilot:
        await until(pilot, lambda: "▶ running" in text(app))
        assert "alive" in text(app) and "Enlarge the terminal to 60 × 16" in text(app)


async def test_a_file_of_kohyas_begins_a_run(smith: Smith, home: Path, until: Until, text: Shown) -> None:
    """Its settings are the draft's, a note names what is not used, and a file that is none stays a question."""
    (home / "train.toml").write_text(
        'network_dim = 24\nunet_lr = 2e-4\nxformers = true\noutput_name = "cat"\n'
        'output_dir = "there"\ntrain_data_dir = "img"\n'
    )
    (home / "train-preset.toml").write_text("unet_lr = 2e-4\n")
    (home / "bad.toml").write_text('network_dim = "many"\nunet_lr = 2e-4\n')
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, ready(app))
        await pilot.press("f")
        await until(pilot, lambda: "Start from a file" in text(app))
        await pilot.press(*"bad.toml", "enter")
        await until(pilot, lambda: "network_dim" in text(app))
        assert "✗" in text(app)
        await pilot.press("ctrl+u", "t", "tab")
        await until(
            pilot, lambda: app.screen.query_one(PathInput).value == "train" and "train-preset.toml" in text(app)
        )
        assert "✗" not in text(app), "the error is about what was typed before"
        await pilot.press("tab", "tab", "enter")
        await until(pilot, lambda: app.screen.query_one(PathInput).value == "train.toml")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        assert app.draft.get("network.network_dim") == 24 and app.draft.get("saving.output_name") == "cat"
        assert "Review explains 2 keys of the file." in app.draft.notice
        app.draft.save()
        (xformers, place) = kept_notes(Draft.load())
        assert xformers.startswith("xformers") and f"whose results are in {home}/there/cat/results_current" in place
        assert Entries.from_draft(app.draft).place == str(home / "there")
        app.go_to("review")
        await until(pilot, lambda: isinstance(app.screen, ReviewScreen))
        await until(pilot, lambda: "From the file train.toml" in app.screen.query_one(Hanging).text)
        assert place in app.screen.query_one(Hanging).text


async def test_a_run_gets_another_name_and_a_note(smith: Smith, home: Path, until: Until, text: Shown) -> None:
    run_dir = make("fox", "stopped")
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "fox" in text(app) and ready(app)())
        await pilot.press("a", *"Reynard", "enter")
        await until(pilot, lambda: "Reynard" in text(app).splitlines()[3])
        await pilot.press("e", *"too soft", "enter")
        await until(pilot, lambda: "too soft" in text(app))
        assert read_remarks(run_dir) == Remarks("Reynard", "too soft") and run_dir.name == "fox"
        await pilot.press("slash", *"soft", "enter")
        await until(pilot, lambda: "Reynard" in text(app))
        await pilot.press("escape", "a", "ctrl+u", "enter", "e", "ctrl+u", "enter")
        await until(pilot, lambda: "fox" in text(app).splitlines()[3] and "too soft" not in text(app))
        assert read_remarks(run_dir) == Remarks()


async def test_a_name_of_another_run_is_refused(smith: Smith, home: Path, until: Until, text: Shown) -> None:
    fox, hare = make("fox", "stopped"), make("hare", "stopped")
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await point_at(pilot, until, "fox")
        await pilot.press("a", *"hare", "enter")
        await until(pilot, lambda: "Another run has this name" in text(app))
        await pilot.press("ctrl+u", *"Reynard", "enter")
        await until(pilot, lambda: read_remarks(fox).title == "Reynard")
        await pilot.press("home")
        await point_at(pilot, until, "hare")
        await pilot.press("a", *"Reynard", "enter")
        await until(pilot, lambda: "Another run has this name" in text(app))
        await pilot.press("ctrl+u", *"hare", "enter")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
        assert read_remarks(hare).title == ""


async def test_the_demo_starts_by_a_key_and_from_the_palette(smith: Smith, until: Until, text: Shown) -> None:
    app = smith(values={"saving.output_name": "mine"})
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "try it: the demo" in text(app))
        titles = [command.title for command in app.get_system_commands(app.screen)]
        assert titles.count("Start the demo") == 1
        await pilot.press("D")
        await until(pilot, lambda: "You have an unfinished setup: mine" in text(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.draft.step == "model" and "✓ Stable Diffusion 1.5" in text(app))
        assert app.draft.preset == "demo"
        assert "Start the demo" in [command.title for command in app.get_system_commands(app.screen)]
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        assert app.screen.entries.trigger == "smithy"  # type: ignore[attr-defined]


OFFERED = {"n New run", "f From file"}


@pytest.mark.parametrize(
    ("states", "offered"),
    [
        ((), set()),
        (("finished",), {"c Copy", "d Delete"}),
        (("stopped",), {"r Resume", "c Copy", "d Delete"}),
        (("failed",), {"r Resume", "c Copy", "d Delete"}),
        (("damaged",), set()),
        (("finished", "finished"), {"c Copy", "d Delete", "m Compare"}),
        (("damaged", "finished"), {"c Copy", "d Delete"}),
    ],
)
async def test_only_what_can_be_done_is_offered(
    smith: Smith, home: Path, until: Until, text: Shown, states: tuple[str, ...], offered: set[str]
) -> None:
    for number, state in enumerate(states):
        run_dir = make(f"run{number}", "stopped" if state == "damaged" else state)
        if state == "damaged":
            run_dir.remarks_path.symlink_to(home)
    app = smith()
    async with app.run_test(size=(160, 24)) as pilot:
        await until(pilot, ready(app))
        await pilot.pause()
        shown = text(app).splitlines()[-1]
        keys = {"r Resume", "x Stop", "c Copy", "d Delete", "m Compare", *OFFERED}
        assert {key for key in keys if key in shown} == offered | OFFERED


async def test_a_live_run_offers_to_stop(smith: Smith, live: RunDir, until: Until, text: Shown) -> None:
    app = smith()
    async with app.run_test(size=(160, 24)) as pilot:
        await until(pilot, lambda: "x Stop" in text(app).splitlines()[-1])
        assert "r Resume" not in text(app) and "d Delete" not in text(app)


@pytest.mark.parametrize(("columns", "titles"), [(60, "Name State Step"), (100, "Name State Step Last seen Where")])
async def test_its_columns_fit(smith: Smith, home: Path, until: Until, text: Shown, columns: int, titles: str) -> None:
    make("a run with a long name", "finished")
    make("other", "stopped")
    app = smith()
    async with app.run_test(size=(columns, 20)) as pilot:
        await until(pilot, lambda: "finished" in text(app))
        assert " ".join(text(app).splitlines()[2].split()) == titles
        await pilot.press("end")
        table = app.screen.query_one(DataTable)
        await until(pilot, lambda: table.cursor_row == 1)
        await pilot.resize_terminal(160 - columns, 20)
        await until(pilot, lambda: ("Where" in text(app)) is (columns == 60))
        assert table.cursor_row == 1


async def test_a_name_that_is_too_long_is_refused_and_a_shorter_one_is_a_title(
    smith: Smith, home: Path, until: Until, text: Shown
) -> None:
    run_dir = make("good", "finished")
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await point_at(pilot, until, "good")
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, AskTextScreen))
        field = app.screen.query_one(Input)
        field.value = "x" * (LONGEST_TITLE + 1)
        await pilot.press("enter")
        await until(pilot, lambda: "It has 61 characters; up to 60 are kept." in " ".join(text(app).split()))
        field.value = "The tin man"
        await pilot.press("enter")
        await until(pilot, lambda: read_remarks(run_dir).title == "The tin man")
        app.open_run(run_dir)
        await until(pilot, lambda: "The tin man   ✓ finished" in text(app))
