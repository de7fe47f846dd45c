"""Training a finished run longer, from its dashboard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.fake_run import PlayedTrainer, prepared_run
from tests.state_files import write_state
from tui.app import LoraSmithApp
from tui.screens.dashboard import DashboardScreen
from tui.screens.longer import LongerScreen
from tui.widgets.text_input import TextInput


async def test_the_meaning_of_a_number_is_shown_before_it_is_taken(
    smith: Callable[..., LoraSmithApp], home: Path, until: Callable[..., Awaitable[None]],
    text: Callable[[LoraSmithApp], str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run_dir = prepared_run(home, training={"max_train_steps": 20})
    trainer = PlayedTrainer(run_dir, total=20)
    trainer.train(20)
    run_dir.checkpoints.mkdir(exist_ok=True)
    write_state(run_dir.checkpoints, 20, 10)
    trainer.end()
    begun: list[object] = []
    monkeypatch.setattr("tui.shell.begin.resume", lambda run, changes, **_: begun.append(changes))
    app = smith(step="hardware")
    app.first_run = run_dir
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen) and "finished" in text(app))
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, LongerScreen) and "step 50, the end of epoch 5" in text(app))
        assert app.screen.query_one(TextInput).value == "5"
        await pilot.press("backspace", "1")
        await until(pilot, lambda: "✗ The run" in text(app))
        await pilot.press("enter")
        assert isinstance(app.screen, LongerScreen), "what cannot be is not taken"
        await pilot.press("backspace", "4")
        await until(pilot, lambda: "step 40, the end of epoch 4" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: begun == [{"training.max_train_epochs": 4}])
