"""The dashboard: every state of a run shown for what it is, every command answered, driven by keys."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.config import load_config
from engine.errors import TrainingError
from engine.oom.remedy import Remedy
from engine.runs import RunDir, read_events, true_state
from engine.runs.events import NoteEvent, OomEvent, PhaseEvent, ProgressEvent, WarningEvent
from engine.runs.layout import write_record
from tests.fake_run import PlayedTrainer, prepared_run, trained_on_copies
from tui.app import LoraSmithApp
from tui.screens import dashboard
from tui.screens.ask import AskScreen
from tui.screens.dashboard import DashboardScreen
from tui.screens.home import HomeScreen
from tui.screens.remedies import RemediesScreen
from tui.screens.results import ResultsScreen
from tui.widgets.chart import SLOW_SECONDS, LossChart
from tui.widgets.gallery import Gallery
from tui.widgets.lines import Tail

FAKE = Path(__file__).parents[2] / "engine" / "runs" / "fake_trainer.py"
NARROW, WIDE = (80, 24), (120, 36)
Until = Callable[..., Awaitable[None]]
Text = Callable[[LoraSmithApp], str]
Open = Callable[[RunDir], LoraSmithApp]


@pytest.fixture
def run_dir(home: Path) -> RunDir:
    """A prepared run called robot."""
    return prepared_run(home)


@pytest.fixture
def trainer(run_dir: RunDir) -> Iterator[PlayedTrainer]:
    """A live trainer of that run, played by the test."""
    played = PlayedTrainer(run_dir)
    yield played
    played.lock.release()


@pytest.fixture
def watching(smith: Callable[..., LoraSmithApp], monkeypatch: pytest.MonkeyPatch) -> Open:
    """watching(run_dir): the app that begins with the run's dashboard and looks often."""
    for name in ("LIVE_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(f"tui.screens.dashboard.{name}", 0.05)

    def begin(run_dir: RunDir) -> LoraSmithApp:
        app = smith()
        app.first_run = run_dir
        return app

    return begin


@pytest.fixture
def fake_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is launched is a trainer without a model, of 5 quick steps."""

    def command(run_dir: RunDir) -> list[str]:
        return [sys.executable, str(FAKE), str(run_dir.path), "5", "0.02"]

    monkeypatch.setattr("engine.runs.launch.trainer_command", command)


def flat(text: str) -> str:
    """Text without line breaks and frames, for sentences that wrap."""
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_a_live_run_in_numbers(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text, size: tuple[int, int]
) -> None:
    trainer.train(25)
    trainer.save(validation_loss=0.21)
    async with watching(trainer.run_dir).run_test(size=size) as pilot:
        await until(pilot, lambda: "25 of 100 (25 %)" in text(pilot.app))
        await until(pilot, lambda: "memory used" in text(pilot.app) and "s Sample" in text(pilot.app))
        shown = text(pilot.app)
        for expected in (
            "robot", "running  · training", "1 min 5 s left", "3 of 10", "2.31 img/s", "0.87 s/step", "smoothed 0.2080",
            "raw 0.2040", "validation 0.2100", "U-Net 1.00e-04", "text encoder 5.00e-05", "3.1 GiB allocated",
            "4.0 GiB reserved", "4.2 GiB peak", "robot-step00000025.safetensors at step 25", "state at step 0",
            "s Sample", "w Save", "c Set", "p Pause", "x Stop", "esc Runs", "^q Quit",
        ):  # fmt: skip
            assert expected in shown, expected
        assert (" 1 Overview   2 Samples " in shown) is (size == NARROW)
        if size == WIDE:
            for expected in ("2 Samples", "3 Events", "4 Log", "Full state saved, step 0", "Validation loss 0.2100"):
                assert expected in shown, expected
        trainer.train(1)
        await until(pilot, lambda: "26 of 100" in text(pilot.app))


async def test_panes_by_number(watching: Open, trainer: PlayedTrainer, until: Until, text: Text) -> None:
    trainer.events.emit(NoteEvent(text="Precision fp32: as [configured]."))
    trainer.events.emit(WarningEvent(code="odd", text="Odd images."))
    trainer.run_dir.log_path.write_text("Precision fp32: as [configured].\na line of the log\nwarning: Odd images.\n")
    trainer.train(10)
    trainer.sample()
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "smoothed" in text(pilot.app))
        await pilot.press("3")
        await until(pilot, lambda: "Precision fp32: as [configured]." in text(pilot.app))
        assert "smoothed" not in text(pilot.app) and f"The trainer started: process {os.getpid()}" in text(pilot.app)
        await pilot.press("4")
        await until(pilot, lambda: "a line of the log" in text(pilot.app))
        assert pilot.app.screen.query_one("#printed", Tail).copied_text == "a line of the log", "Events has the others"
        await pilot.press("2")
        await until(pilot, lambda: "step 10 · prompt 1 of 2: a smithy robot, hammer in hand" in text(pilot.app))
        await pilot.press("down")
        await until(pilot, lambda: "prompt 2 of 2: a [robot] on a beach" in text(pilot.app))
        await pilot.press("1")
        await until(pilot, lambda: "smoothed" in text(pilot.app))


async def test_samples_walk_through_time_and_follow_the_newest(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    for _ in range(6):
        trainer.train(1)
        trainer.sample()
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "smoothed" in text(pilot.app))
        await pilot.press("2")
        gallery = pilot.app.screen.query_one(Gallery)
        await until(pilot, lambda: gallery.step == 6 and gallery.has_focus)
        trainer.train(1)
        trainer.sample()
        await until(pilot, lambda: gallery.step == 7 and "▸ step 7" in text(pilot.app))
        await pilot.press("left", "left")
        assert gallery.step == 5
        trainer.train(1)
        trainer.sample()
        await until(pilot, lambda: 8 in gallery.steps)
        assert gallery.step == 5
        await pilot.press("home")
        assert gallery.step == 1
        await pilot.press("end")
        assert gallery.step == 8


@pytest.mark.parametrize(
    ("key", "command", "words"), [("s", "sample_now", "Sample now"), ("w", "save_now", "Save now")]
)
async def test_a_command_shows_the_trainers_answer(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text, key: str, command: str, words: str
) -> None:
    trainer.train(1)
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "running" in text(pilot.app))
        await pilot.press(key)
        await until(pilot, lambda: f"{words}: sent" in text(pilot.app))
        answered: list[str] = []
        await until(pilot, lambda: answered.extend(trainer.answer("done")) or answered)
        assert answered == [command]
        await until(pilot, lambda: f"{words}: done" in text(pilot.app))


async def test_pause_and_continue(watching: Open, trainer: PlayedTrainer, until: Until, text: Text) -> None:
    trainer.train(3)
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "running" in text(pilot.app))
        await pilot.press("p")
        await until(pilot, lambda: list(trainer.run_dir.control.iterdir()))
        assert trainer.answer() == ["pause"]
        trainer.state.update(state="paused")
        await until(pilot, lambda: "‖ paused" in text(pilot.app))
        await until(pilot, lambda: "Paused after step 3; p continues." in text(pilot.app))
        await pilot.press("p")
        await until(pilot, lambda: list(trainer.run_dir.control.iterdir()))
        assert trainer.answer() == ["continue"]
        trainer.train(1)
        await until(pilot, lambda: "▶ running" in text(pilot.app))


async def test_stopping_asks_and_its_default_is_no(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    trainer.train(3)
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "running" in text(pilot.app))
        await pilot.press("x")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskScreen))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, DashboardScreen))
        assert not list(trainer.run_dir.control.iterdir())
        await pilot.press("x", "down", "enter")
        await until(pilot, lambda: list(trainer.run_dir.control.iterdir()))
        assert trainer.answer("stops after this step") == ["stop"]
        trainer.state.update(state="stopping")
        await until(pilot, lambda: "■ stopping" in text(pilot.app))
        trainer.end("stopped", 6)
        await until(pilot, lambda: "□ stopped" in text(pilot.app))
        await until(pilot, lambda: "r continues" in text(pilot.app) and "x Stop" not in text(pilot.app))
        assert "Stop and save" not in text(pilot.app)


async def test_the_answer_to_a_stop_that_comes_with_the_end_is_not_shown(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    trainer.train(3)
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "running" in text(pilot.app))
        await pilot.press("x", "down", "enter")
        await until(pilot, lambda: list(trainer.run_dir.control.iterdir()))
        trainer.answer("stops after this step")
        trainer.end("stopped", 6)
        await until(pilot, lambda: "□ stopped" in text(pilot.app))
        await until(pilot, lambda: "Stopped with everything saved." in text(pilot.app).splitlines()[-2])


async def test_a_command_without_an_answer_is_reported(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    trainer.train(3)
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "running" in text(pilot.app))
        await pilot.press("w")
        await until(pilot, lambda: list(trainer.run_dir.control.iterdir()))
        trainer.end()
        await until(pilot, lambda: "Save now: no answer, the run has ended" in text(pilot.app))


async def test_caching_shows_when_the_time_left_is_known(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    trainer.events.emit(PhaseEvent(name="cache", state="start", step=0))
    trainer.events.emit(ProgressEvent(phase="cache", done=3, total=16, unit="images"))
    trainer.state.update(state="starting", phase="cache")
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "3 of 16 images · time left: known after caching" in text(pilot.app))
        assert "No loss yet" in text(pilot.app) and "starting  · caching" in text(pilot.app)


async def test_samples_and_measures_are_counted_while_the_training_waits(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    trainer.train(5)
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        for phase, words in {"sample": "generating samples", "validate": "measuring the weights"}.items():
            trainer.events.emit(PhaseEvent(name=phase, state="start", step=5))
            trainer.events.emit(ProgressEvent(phase=phase, done=1, total=4, unit="images"))
            await until(pilot, lambda words=words: f"{words}: 2 of 4 images" in text(pilot.app))
            trainer.events.emit(PhaseEvent(name=phase, state="end", step=5))
            await until(pilot, lambda words=words: words not in text(pilot.app))


async def test_a_finished_run_leads_to_its_results(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    trainer.train(5)
    trainer.save()
    trainer.end()
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "✓ finished" in text(pilot.app))
        assert "Finished. Enter shows the files and their samples." in text(pilot.app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ResultsScreen))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, DashboardScreen))


async def test_a_lost_run_explains_itself_and_resumes(
    watching: Open, run_dir: RunDir, fake_trainer: None, until: Until, text: Text
) -> None:
    trainer = PlayedTrainer(run_dir, total=5)
    trainer.train(3)
    trainer.run_dir.log_path.write_text("the last words\n")
    trainer.vanish()
    async with watching(run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "r resumes it from the saved state of step 0." in text(pilot.app))
        assert "! lost" in text(pilot.app)
        assert "The run stopped unexpectedly at step 3: the process stopped unexpectedly" in flat(text(pilot.app))
        await pilot.press("3")
        await until(pilot, lambda: "check dmesg" in flat(text(pilot.app)))
        await pilot.press("r")
        await until(pilot, lambda: "✓ finished" in text(pilot.app))
        assert "resumed once" in text(pilot.app) and "5 of 5 (100 %)" in text(pilot.app)


async def test_a_run_of_another_machine_asks_before_it_resumes(
    watching: Open, run_dir: RunDir, until: Until, text: Text
) -> None:
    write_record(run_dir.state_path, {"state": "running", "pid": 1, "step": 5, "host": "gpu-server", "updated": 1000.0})
    async with watching(run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "? unknown" in text(pilot.app))
        assert "on another machine: it ran on gpu-server" in flat(text(pilot.app))
        assert "x Stop" not in text(pilot.app)
        await pilot.press("r")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskScreen))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, DashboardScreen))
        assert true_state(run_dir).state == "unknown"


async def test_without_permission_it_is_read_only(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.train(2)
    monkeypatch.setattr("tui.watching.run.os.access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "Read-only: you don't have write permission" in text(pilot.app))
        await pilot.press("s")
        await until(pilot, lambda: "✗ You don't have write permission in" in text(pilot.app))
        assert not list(trainer.run_dir.control.iterdir()) and "2 of 100" in text(pilot.app)


async def test_without_its_event_log_a_run_has_the_progress_of_its_state(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    trainer.train(25)
    trainer.run_dir.events_path.unlink()
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "25 of 100 (25 %)" in text(pilot.app))
        assert "No loss yet" in text(pilot.app)


async def test_a_partial_last_line_and_bad_lines_are_reported(
    watching: Open, run_dir: RunDir, until: Until, text: Text
) -> None:
    trainer = PlayedTrainer(run_dir)
    trainer.train(4)
    trainer.vanish()
    with run_dir.events_path.open("ab") as file:
        file.write(b'no event\n{"v": 1, "seq"')
    async with watching(run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "4 of 100" in text(pilot.app))
        await pilot.press("3")
        await until(pilot, lambda: "The last line of the event log has no end" in flat(text(pilot.app)))
        assert "cannot be read, and are left out: 1." in flat(text(pilot.app))


async def test_a_directory_that_vanishes(watching: Open, trainer: PlayedTrainer, until: Until, text: Text) -> None:
    trainer.train(2)
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "running" in text(pilot.app))
        trainer.vanish()
        shutil.rmtree(trainer.run_dir.path)
        await until(pilot, lambda: "the directory is gone" in text(pilot.app))
        assert "it was moved, renamed or deleted" in flat(text(pilot.app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, HomeScreen))


async def test_a_failed_run_shows_why(watching: Open, trainer: PlayedTrainer, until: Until, text: Text) -> None:
    trainer.train(2)
    trainer.end("failed", 5, title="Storage", message="No space left in [there].", hint="Free some space.")
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "✗ Storage: No space left in [there]. Free some space." in text(pilot.app))
        await until(pilot, lambda: "r Resume" in text(pilot.app))


def run_out(trainer: PlayedTrainer) -> None:
    """The memory runs out in step 3."""
    trainer.train(2)
    trainer.events.emit(
        OomEvent(phase="train", step=2, message="CUDA out of memory.", device="cuda:0", requested=512 * 2**20,
        free=210 * 2**20, total=16 * 2**30, allocated=int(14.5 * 2**30), reserved=15 * 2**30,
    ))  # fmt: skip
    trainer.end("failed", 4, title="Out of memory", message="Out of memory.", hint="")


async def test_out_of_memory_shows_numbers_and_one_key_continues(
    home: Path, watching: Open, fake_trainer: None, until: Until, text: Text
) -> None:
    run_dir = prepared_run(home, "big", training={"train_batch_size": 4})
    trainer = PlayedTrainer(run_dir, total=5)
    run_out(trainer)
    async with watching(run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, RemediesScreen) and "Costs:" in text(pilot.app))
        shown = flat(text(pilot.app))
        for expected in (
            "Out of memory", "cuda:0 ran out of memory at step 2, while training", "512.0 MiB requested",
            "210.0 MiB free", "16.0 GiB in all", "14.5 GiB allocated by the training", "15.0 GiB reserved by it",
            "Batch", "Saves:", "Costs:",
        ):  # fmt: skip
            assert expected in shown, expected
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, DashboardScreen))
        await until(pilot, lambda: "m Remedies" in text(pilot.app))
        await pilot.press("m")
        await until(pilot, lambda: isinstance(pilot.app.screen, RemediesScreen))
        screen = pilot.app.screen
        assert isinstance(screen, RemediesScreen)
        number = next(n for n, remedy in enumerate(screen.remedies, 1) if "training.train_batch_size" in remedy.changes)
        await pilot.press(str(number))
        await until(pilot, lambda: "✓ finished" in text(pilot.app))
        training = load_config(run_dir.config_path).training
        assert (training.train_batch_size, training.gradient_accumulation_steps) != (4, 1)
        assert training.train_batch_size * training.gradient_accumulation_steps == 4
        assert "resumed once" in text(pilot.app)


async def test_the_plan_shows_what_each_remedy_saves(
    smith: Callable[..., LoraSmithApp], until: Until, text: Text, home: Path
) -> None:
    asked = threading.Event()

    def estimate(cancelled: Callable[[], bool]) -> Iterator[tuple[str, str]]:
        assert asked.wait(20)
        yield "one", "1.5 GiB, which alone is not enough."
        raise TrainingError("The memory plan failed.", "")

    remedies = [Remedy(name, f"Title {name}.", "Why.", "something", "a little", {"a": 1}) for name in ("one", "two")]
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        app.push_screen(RemediesScreen(["It ran out."], remedies, estimate=estimate))
        await until(pilot, lambda: "By plan: being computed" in text(app))
        asked.set()
        await until(pilot, lambda: "By plan: 1.5 GiB, which alone is not enough." in text(app))
        await pilot.press("down")
        await until(pilot, lambda: "By plan: unknown. The memory plan failed." in text(app))


async def test_a_resume_that_cannot_be_shows_why(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.errors import StorageError

    trainer.train(2)
    trainer.end("stopped", 6)

    def refuse(*_: Any, **__: Any) -> None:
        raise StorageError("Writing it failed: the file system is read-only.", "Choose another place.")

    monkeypatch.setattr("engine.runs.begin.prepare_resume", refuse)
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "□ stopped" in text(pilot.app))
        await pilot.press("r")
        await until(pilot, lambda: "the file system is read-only" in text(pilot.app))
        await pilot.press("escape")
        await until(pilot, lambda: "□ stopped" in text(pilot.app))
        assert "Resuming" not in text(pilot.app)


async def test_what_changed_since_the_last_state_is_named_and_asked_for(
    watching: Open, home: Path, fake_trainer: None, until: Until, text: Text
) -> None:
    run_dir = trained_on_copies(home)
    trainer = PlayedTrainer(run_dir, total=5)
    trainer.train(2)
    trainer.end("stopped", 2, title="Changed since", message="1 caption changed: x.txt.", hint="Undo it.")
    caption = sorted((home / "images").rglob("*.txt"))[0]
    caption.write_text("something else")
    async with watching(run_dir).run_test(size=NARROW) as pilot:
        app = pilot.app
        await until(pilot, lambda: "Changed since: 1 caption changed: x.txt." in flat(text(app)))
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        assert f"1 caption changed: {caption.name}" in flat(text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
        assert true_state(run_dir).state == "stopped", "nothing was started"
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "✓ finished" in text(app))
    notes = [event.data["text"] for event in read_events(run_dir.events_path) if event.type == "note"]
    assert notes == [f"Accepted: 1 caption changed: {caption.name}."]


async def test_detaching_leaves_and_shows_how_to_come_back(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    trainer.train(2)
    app = watching(trainer.run_dir)
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "running" in text(app))
        await pilot.press("d")
        await until(pilot, lambda: not app.is_running)
    assert true_state(trainer.run_dir).live and not list(trainer.run_dir.control.iterdir())


async def test_a_small_terminal_gets_the_essentials(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    trainer.train(25)
    async with watching(trainer.run_dir).run_test(size=(40, 10)) as pilot:
        await until(pilot, lambda: "step 25 of 100 (25 %)" in text(pilot.app))
        shown = text(pilot.app)
        assert "running" in shown and "loss 0.2080" in shown and "1 min 5 s left" in shown and "Enlarge" in shown
        trainer.train(1)
        await until(pilot, lambda: "step 26 of 100" in text(pilot.app))


async def test_a_long_history_comes_in_pieces(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.watching.run.PIECE", 10)
    monkeypatch.setattr("engine.runs.EventFollower.CHUNK", 2000)
    trainer.total = 500
    trainer.train(300)
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "300 of 500" in text(pilot.app))
        screen = pilot.app.screen
        assert isinstance(screen, DashboardScreen) and len(screen.history.raw) == 300


async def test_help_names_every_key(watching: Open, trainer: PlayedTrainer, until: Until, text: Text) -> None:
    trainer.train(2)
    async with watching(trainer.run_dir).run_test(size=(100, 60)) as pilot:
        await until(pilot, lambda: "running" in text(pilot.app))
        await pilot.press("question_mark")
        await until(pilot, lambda: "This screen only watches it" in flat(text(pilot.app)))
        for expected in ("Generate samples now.", "Finish the step", "Overview", "Samples", "Events", "Log"):
            assert expected in text(pilot.app), expected


async def test_a_refusal_is_shown_whole(watching: Open, trainer: PlayedTrainer, until: Until, text: Text) -> None:
    trainer.train(3)
    whole = "Sample now: not possible before the first step; try again when the training has begun"
    async with watching(trainer.run_dir).run_test(size=(60, 24)) as pilot:
        await until(pilot, lambda: "3 of 100" in text(pilot.app))
        await pilot.press("s")
        await until(pilot, lambda: trainer.answer("refused: not possible in this phase") == ["sample_now"])
        await until(pilot, lambda: whole in flat(text(pilot.app)))


async def test_the_answer_to_a_request_fades(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.screens.base.ANSWER_SECONDS", 0.3)
    trainer.train(3)
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "3 of 100" in text(pilot.app))
        await pilot.press("s")
        await until(pilot, lambda: trainer.answer("refused: not possible in this phase") == ["sample_now"])
        await until(pilot, lambda: "not possible before the first step" in text(pilot.app))
        await until(pilot, lambda: "not possible before the first step" not in text(pilot.app))


async def test_the_part_with_the_focus_is_seen_and_can_have_the_whole_screen(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    trainer.train(3)
    async with watching(trainer.run_dir).run_test(size=WIDE) as pilot:
        app = pilot.app
        await until(pilot, lambda: "3 of 100" in text(app))
        for key, name in (("3", "events"), ("4", "log"), ("2", "samples"), ("1", "overview")):
            await pilot.press(key)
            await until(pilot, lambda name=name: app.focused and name in [n.id for n in app.focused.ancestors])
            frames = {pane.id: pane.styles.border_top[1].hex for pane in app.screen.query(".pane")}
            focus = app.theme_variables["frame-focus"]
            assert [id for id, colour in frames.items() if colour.lower() == focus] == [name]
        await pilot.press("3", "f11")
        await until(pilot, lambda: "The trainer started" in text(app) and "smoothed" not in text(app))
        await until(pilot, lambda: "F11 All parts" in text(app).splitlines()[-1])
        await pilot.press("2")
        await until(pilot, lambda: "No samples yet." in text(app) and "The trainer started" not in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "The trainer started" in text(app) and "smoothed" in text(app))
        assert isinstance(app.screen, DashboardScreen)


async def test_keys_and_help_are_those_of_the_state(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    trainer.train(3)
    async with watching(trainer.run_dir).run_test(size=(120, 50)) as pilot:
        await until(pilot, lambda: "p Pause" in text(pilot.app))
        await pilot.press("f1")
        await until(pilot, lambda: "Pause and Stop are requests" in flat(text(pilot.app)))
        await pilot.press("escape")
        trainer.state.update(force=True, state="paused")
        await until(pilot, lambda: "p Continue" in text(pilot.app) and "p Pause" not in text(pilot.app))
        trainer.end()
        await until(pilot, lambda: "r Train longer" in text(pilot.app) and "v Results" in text(pilot.app))
        await pilot.press("f1")
        await until(pilot, lambda: "The training is finished." in text(pilot.app))
        assert "are requests" not in text(pilot.app)


async def test_the_bar_of_the_epoch_is_full_at_the_end(
    watching: Open, trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    trainer.total = 25  # two and a half epochs
    trainer.train(25)
    trainer.end()
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "25 of 25" in text(pilot.app))
        assert "░" not in text(pilot.app)


async def test_leaving_it_the_list_stands_on_its_run(
    watching: Open, trainer: PlayedTrainer, until: Until, home: Path, text: Text
) -> None:
    newer = prepared_run(home, "newer")
    async with watching(trainer.run_dir).run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "robot" in text(pilot.app))
        await pilot.press("escape")
        screen = pilot.app.screen
        assert isinstance(screen, HomeScreen)
        await until(pilot, lambda: screen.runs and str(newer.path) in screen.runs)
        await until(pilot, lambda: screen.chosen() and screen.chosen().run_dir.path == trainer.run_dir.path)


async def test_on_a_slow_line_it_looks_rarely_except_for_an_answer(
    smith: Callable[..., LoraSmithApp], trainer: PlayedTrainer, until: Until, text: Text
) -> None:
    """How much that saves: benchmarks/tui.py."""
    trainer.train(3)
    app = smith(low_bandwidth=True)
    app.first_run = trainer.run_dir
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "3 of 100" in text(app))
        screen = app.screen
        assert isinstance(screen, DashboardScreen)
        assert screen._pace == dashboard.SLOWER * dashboard.LIVE_SECONDS
        assert screen.query_one(LossChart)._pace == SLOW_SECONDS
        await pilot.press("s")
        await until(pilot, lambda: screen._pace == dashboard.LIVE_SECONDS)
        trainer.answer()
        await until(pilot, lambda: "Sample now: done" in text(app))
        assert screen._pace == dashboard.SLOWER * dashboard.LIVE_SECONDS


async def test_on_a_slow_line_the_chart_is_late_and_complete_at_the_end(
    smith: Callable[..., LoraSmithApp], trainer: PlayedTrainer, until: Until, text: Text,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("LIVE_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(f"tui.screens.dashboard.{name}", 0.02)
    trainer.train(3)
    app = smith(low_bandwidth=True)
    app.first_run = trainer.run_dir
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "3 of 100" in text(app))
        chart = app.screen.query_one(LossChart)
        await until(pilot, lambda: chart._drawn_step == 3)
        trainer.train(3)
        await until(pilot, lambda: "6 of 100" in text(app) and "drawn up to step 3" in text(app))
        await pilot.press("2", "1")
        await until(pilot, lambda: "drawn up to" not in text(app))
        trainer.train(3)
        await until(pilot, lambda: "drawn up to step 6" in text(app))
        trainer.end()
        await until(pilot, lambda: "finished" in text(app) and "drawn up to" not in text(app))
