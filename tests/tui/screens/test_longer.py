"""Training a finished run longer, from its dashboard."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from engine.runs import RunDir
from engine.runs.resume import plan_resume
from tests.fake_run import PlayedTrainer, prepared_run
from tests.state_files import write_state
from tui.app import LoraSmithApp
from tui.screens.dashboard import DashboardScreen
from tui.screens.longer import LongerScreen
from tui.screens.results import ResultsScreen
from tui.text.longer import RunLength
from tui.widgets.text_input import TextInput

Until = Callable[..., Awaitable[None]]
Text = Callable[[LoraSmithApp], str]


def finished(home: Path, **training: int) -> RunDir:
    """A run of 20 steps in epochs of 10."""
    run_dir = prepared_run(home, training=training)
    trainer = PlayedTrainer(run_dir, total=20)
    trainer.train(20)
    run_dir.checkpoints.mkdir(exist_ok=True)
    write_state(run_dir.checkpoints, 20, 10)
    trainer.end()
    return run_dir


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The changes of each resume that the screen begins."""
    changes: list[object] = []
    monkeypatch.setattr("tui.shell.begin.resume", lambda run, listed, **_: changes.append(listed))
    return changes


@pytest.mark.parametrize(
    ("training", "asked", "proposed", "meaning", "refused", "wanted", "change"),
    [
        ({"max_train_epochs": 2}, "Epochs of the whole run: It has 2 epochs (20 steps) now.", "5",
         ("In all: 5 epochs (50 steps).", "30 steps more take about 26 s"), "2", "4", {"training.max_train_epochs": 4}),
        ({"max_train_steps": 20}, "Steps of the whole run: It has 20 steps (2 epochs) now.", "30",
         ("In all: 30 steps (3 epochs).", "10 steps more take about 9 s"), "20", "25",
         {"training.max_train_steps": 25}),
    ],
)  # fmt: skip
async def test_the_unit_is_that_of_the_settings_and_what_a_number_means_is_shown(
    smith: Callable[..., LoraSmithApp], home: Path, until: Until, text: Text, begun: list[object],
    training: dict[str, int], asked: str, proposed: str, meaning: tuple[str, ...], refused: str, wanted: str,
    change: dict[str, int],
) -> None:  # fmt: skip
    app = smith(step="hardware")
    app.first_run = finished(home, **training)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen) and app.screen.config is not None)
        await until(pilot, lambda: "finished" in text(app))
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, LongerScreen) and "The run continues from" in text(app))
        assert asked in text(app)
        for sentence in meaning:
            assert sentence in text(app)
        field = app.screen.query_one(TextInput)
        assert field.value == proposed
        field.value = refused
        await until(pilot, lambda: "✗ The run" in text(app))
        await pilot.press("enter")
        assert isinstance(app.screen, LongerScreen), "what cannot be is not taken"
        field.value = wanted
        await pilot.press("enter")
        await until(pilot, lambda: begun == [change])


async def test_it_is_reached_from_the_results_and_has_help(
    smith: Callable[..., LoraSmithApp], home: Path, until: Until, text: Text, begun: list[object]
) -> None:
    app = smith(step="hardware")
    app.first_run = finished(home, max_train_steps=20)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen) and app.screen.config is not None)
        await until(pilot, lambda: "finished" in text(app))
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, ResultsScreen) and app.screen.record is not None)
        assert "Train longer" in [command.title for command in app.get_system_commands(app.screen)]
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, LongerScreen) and "The run continues from" in text(app))
        await pilot.press("f1")
        await until(pilot, lambda: "those that it has made" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, LongerScreen))
        await pilot.press("enter")
        await until(pilot, lambda: begun == [{"training.max_train_steps": 30}])
        assert isinstance(app.screen, DashboardScreen)


async def test_enter_before_the_plan_is_ready_counts(
    smith: Callable[..., LoraSmithApp], home: Path, until: Until, text: Text, begun: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    ready = threading.Event()

    def slow(run_dir: RunDir, changes: dict[str, object]) -> object:
        ready.wait(30)
        return plan_resume(run_dir, changes)

    monkeypatch.setattr("engine.runs.resume.plan_resume", slow)
    app = smith(step="hardware")
    app.first_run = finished(home, max_train_steps=20)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen) and app.screen.config is not None)
        await until(pilot, lambda: "finished" in text(app))
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, LongerScreen) and app.screen.focused is not None)
        await pilot.press("enter")
        assert begun == [] and isinstance(app.screen, LongerScreen)
        ready.set()
        await until(pilot, lambda: begun == [{"training.max_train_steps": 30}])


@pytest.mark.parametrize(
    ("length", "question", "proposed", "meaning"),
    [
        (RunLength(False, 30, None, 50, 2.0), "Steps of the whole run: It has 30 steps (0.6 epochs) now.", "45",
         ["In all: 60 steps (1.2 epochs).",
          "30 steps more take about 1 min 0 s, without samples, saves and measuring."]),
        (RunLength(False, 1), "Steps of the whole run: It has 1 step now.", "2", []),
        (RunLength(True, 30), "Epochs of the whole run:", "", []),
        (RunLength(True, 30, 3, 10), "Epochs of the whole run: It has 3 epochs (30 steps) now.", "6",
         ["In all: 60 epochs (600 steps)."]),
    ],
)  # fmt: skip
def test_a_length_in_both_units(length: RunLength, question: str, proposed: str, meaning: list[str]) -> None:
    assert (length.question, length.proposed, length.meaning(60)) == (question, proposed, meaning)
