"""Changing a setting of a run that trains, by keyboard alone on the smallest screen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from textual.widgets import OptionList, TextArea

from engine.config import load_config, update_toml
from engine.config.change import LIVE_KEYS, Change
from engine.config.changes import with_change
from engine.runs import RunDir
from tests.fake_run import PlayedTrainer, prepared_run
from tui.app import LoraSmithApp
from tui.screens.ask_text import AskTextScreen
from tui.screens.change_setting import ChangeSettingScreen
from tui.screens.dashboard import DashboardScreen
from tui.screens.entries import EntriesScreen

NARROW = (80, 24)
Until = Callable[..., Awaitable[None]]
Text = Callable[[LoraSmithApp], str]


def execute(trainer: PlayedTrainer, result: str = "") -> list[Change]:
    """What the trainer does with a request: it notes the change and answers."""
    changes = []
    for command in trainer.box.take():
        change = Change(trainer.step, command.value["key"], command.value["value"])
        if not result:
            path = trainer.run_dir.config_path
            config, _ = with_change(load_config(path), change)
            path.write_text(update_toml(path.read_text(), config))
        trainer.box.acknowledge(command, result or f"{change.text} from step {trainer.step + 1} on.")
        changes.append(change)
    return changes


@pytest.fixture
def run_dir(smith: object, home: object, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return prepared_run(tmp_path_factory.mktemp("runs"))


async def test_a_setting_is_changed_and_the_answer_shown(
    smith: Callable[..., LoraSmithApp], run_dir: RunDir, until: Until, text: Text
) -> None:
    trainer = PlayedTrainer(run_dir)
    trainer.train(5)
    app = smith(step="hardware")
    app.first_run = run_dir
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "step 5" in text(app) or "5 of 100" in text(app) or "5/100" in text(app))
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, ChangeSettingScreen) and "Learning rate" in text(app))
        options = app.screen.query_one(OptionList)
        assert options.option_count == len(LIVE_KEYS)
        assert "Samples every                  100 steps" in text(app)
        assert "State every                    100 steps" in text(app), "all of them fit"
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(app.screen, AskTextScreen))
        await pilot.press(*"fast", "enter")
        await until(pilot, lambda: "enter a number" in text(app))
        await pilot.press("ctrl+a", "ctrl+k", *"5e-5", "enter")
        await until(pilot, lambda: "the trainer answers between two steps" in text(app))
        await until(pilot, lambda: [change.key for change in execute(trainer)] == ["training.unet_lr"])
        await until(pilot, lambda: "✓ training.unet_lr = 5e-05 from step 6 on." in text(app))
        await until(pilot, lambda: "U-Net learning rate            5e-5" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, AskTextScreen))
        await pilot.press("enter")
        await until(pilot, lambda: "already has this value" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
    trainer.end()


async def test_prompts_are_several_lines_and_a_refusal_is_shown(
    smith: Callable[..., LoraSmithApp], run_dir: RunDir, until: Until, text: Text
) -> None:
    trainer = PlayedTrainer(run_dir)
    trainer.train(5)
    app = smith(step="hardware")
    app.first_run = run_dir
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen) and app.screen.live)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, ChangeSettingScreen) and "Prompts" in text(app))
        app.screen.query_one(OptionList).highlighted = LIVE_KEYS.index("sampling.sample_prompts")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, EntriesScreen))
        app.screen.query_one(TextArea).text = "a robot\na robot at sea"
        await pilot.press("ctrl+n")
        taken: list[Change] = []
        await until(pilot, lambda: bool(taken.extend(execute(trainer, "refused: the text encoder was freed")) or taken))
        assert taken[0].value == ["a robot", "a robot at sea"]
        await until(pilot, lambda: "✗ refused: the text encoder was freed" in text(app))
        trainer.end()
        await until(pilot, lambda: not app.screen.live())
        await pilot.press("enter")
        await until(pilot, lambda: "The run is not training" in text(app))


async def test_a_refusal_that_comes_after_leaving_is_shown_by_the_dashboard(
    smith: Callable[..., LoraSmithApp], run_dir: RunDir, until: Until, text: Text
) -> None:
    trainer = PlayedTrainer(run_dir)
    trainer.train(5)
    app = smith(step="hardware")
    app.first_run = run_dir
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen) and app.screen.live)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, ChangeSettingScreen) and "Learning rate" in text(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(app.screen, AskTextScreen))
        await pilot.press("ctrl+a", "ctrl+k", *"5e-5", "enter")
        await until(pilot, lambda: "the trainer answers between two steps" in text(app))
        screen = app.screen
        await until(pilot, lambda: bool(screen._pending))  # type: ignore[attr-defined]
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
        assert execute(trainer, "refused: the optimizer has no rate")
        await until(pilot, lambda: "Setting: refused: the optimizer has no rate" in text(app))
    trainer.end()
