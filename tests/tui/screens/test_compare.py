"""Runs side by side on the screen: differences, curves, samples; keyboard only, at both sizes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.runs import RunDir
from engine.runs.events import ValidationEvent
from tests.fake_run import PlayedTrainer, prepared_run
from tui.app import LoraSmithApp
from tui.screens.ask import AskScreen
from tui.screens.compare import CompareScreen, SettingTable
from tui.screens.home import HomeScreen
from tui.text.compare import measure_texts
from tui.widgets.run_samples import RunSamples

NARROW, WIDE = (80, 24), (120, 36)
Until = Callable[..., Awaitable[None]]
Text = Callable[[LoraSmithApp], str]
Smith = Callable[..., LoraSmithApp]


def trained(home: Path, name: str, losses: tuple[float, ...], rate: float) -> RunDir:
    """A finished run with a file, a validation loss and samples every ten steps."""
    made = prepared_run(home, name, training={"unet_lr": rate}, dataset={"class_tokens": "robot"})
    trainer = PlayedTrainer(made)
    trainer.sample()
    trainer.events.emit(ValidationEvent(step=0, loss=0.4))
    for loss in losses:
        trainer.train(10)
        trainer.save(validation_loss=loss)
        trainer.sample()
    trainer.end()
    return made


@pytest.fixture
def two(home: Path) -> list[RunDir]:
    """robot, whose second file is the best, and droid, whose third is."""
    return [trained(home, "robot", (0.2, 0.15, 0.18), 1e-4), trained(home, "droid", (0.3, 0.141, 0.12), 5e-5)]


async def marked(app: LoraSmithApp, pilot: object, until: Until, text: Text) -> CompareScreen:
    """Mark both runs on Home and compare them."""
    await until(pilot, lambda: isinstance(app.screen, HomeScreen) and app.screen.chosen() is not None)
    await pilot.press("space", "down", "space")  # type: ignore[attr-defined]
    await until(pilot, lambda: text(app).count("◆") == 2)
    await pilot.press("m")  # type: ignore[attr-defined]
    await until(pilot, lambda: isinstance(app.screen, CompareScreen) and app.screen.comparison is not None)
    assert isinstance(app.screen, CompareScreen)
    return app.screen


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_marked_runs_side_by_side(
    smith: Smith, two: list[RunDir], until: Until, text: Text, size: tuple[int, int]
) -> None:
    app = smith()
    async with app.run_test(size=size) as pilot:
        screen = await marked(app, pilot, until, text)
        for words in ("A droid · B robot", "Best file", "✓ good", "0.1200"):
            await until(pilot, lambda words=words: words in text(app))
        await pilot.press("ctrl+end", "up")
        for _row in range(3):
            if "training.unet_lr: 5e-5 | 0.0001." not in text(app):
                await pilot.press("up")
                await pilot.pause()
        await until(pilot, lambda: "training.unet_lr: 5e-5 | 0.0001." in text(app))
        await pilot.press("2")
        await until(pilot, lambda: text(app).count("A") > 3 and text(app).count("B") > 3)
        await pilot.press("3")
        await until(pilot, lambda: "A step 30 ●" in text(app) and "B step 20 ●" in text(app))
        assert "prompt 1 of 2 (the seed was not fixed): a smithy robot" in text(app)
        assert isinstance(screen.focused, RunSamples)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))


async def test_every_measure_is_explained(smith: Smith, two: list[RunDir], until: Until, text: Text) -> None:
    """In the help all of them, below the table that of the chosen row."""
    app = smith()
    async with app.run_test(size=(120, 60)) as pilot:
        await marked(app, pilot, until, text)
        screen = app.screen
        await until(pilot, lambda: isinstance(screen, CompareScreen) and screen.comparison is not None)
        assert isinstance(screen, CompareScreen) and screen.comparison is not None
        texts = dict(measure_texts(screen.comparison))
        assert {"Validation loss", "Learned"} <= set(texts)
        table = screen.query_one(SettingTable)
        await until(pilot, lambda: table.row_count)
        shown = {table.get_row_at(row)[0].plain: row for row in range(table.row_count)}
        assert set(texts) <= set(shown)
        for title, words in texts.items():
            table.move_cursor(row=shown[title])
            await until(pilot, lambda words=words: words in " ".join(text(app).split()))
        await pilot.press("f1")
        await until(pilot, lambda: not isinstance(app.screen, CompareScreen))
        assert all(words in screen.help_text for words in texts.values())
        await until(pilot, lambda: "Learned: How much lower" in " ".join(text(app).split()))


async def test_samples_walk_turn_and_flip(smith: Smith, two: list[RunDir], until: Until, text: Text) -> None:
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await marked(app, pilot, until, text)
        await pilot.press("3", "left")
        await until(pilot, lambda: "A step 20" in text(app) and "B step 20 ●" in text(app))
        await pilot.press("b")
        await until(pilot, lambda: "A base" in text(app) and "B base" in text(app))
        await pilot.press("b", "left", "down")
        await until(pilot, lambda: "A step 10" in text(app) and "prompt 2 of 2" in text(app))
        await pilot.press("home")
        await until(pilot, lambda: "A step 30 ●" in text(app))


async def test_one_run_and_one_that_is_asked_for(smith: Smith, two: list[RunDir], until: Until, text: Text) -> None:
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: isinstance(app.screen, HomeScreen) and app.screen.chosen() is not None)
        await pilot.press("m")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        assert "Compare droid with" in text(app) and "robot  ✓ finished" in text(app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen) and app.screen.comparison is not None)
        await until(pilot, lambda: "A droid · B robot" in text(app))


async def test_a_single_run_is_not_compared(smith: Smith, home: Path, until: Until, text: Text) -> None:
    trained(home, "robot", (0.2,), 1e-4)
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: isinstance(app.screen, HomeScreen) and app.screen.chosen() is not None)
        await pilot.press("space", "m")
        await pilot.pause()
        assert isinstance(app.screen, HomeScreen) and "◆" not in text(app)


async def test_runs_without_samples_and_losses_are_reported(smith: Smith, home: Path, until: Until, text: Text) -> None:
    for name in ("one", "two"):
        trainer = PlayedTrainer(prepared_run(home, name))
        trainer.train(1)
        trainer.end("stopped", 6)
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await marked(app, pilot, until, text)
        await until(pilot, lambda: "none" in text(app))
        await pilot.press("2")
        await until(pilot, lambda: "No validation loss in these runs." in text(app))
        await pilot.press("3")
        await until(pilot, lambda: "No two of these runs have samples of the same prompt" in text(app))


LONG = "a-run-with-a-long-name-unet_lr-1e-3"


@pytest.mark.parametrize("size", [NARROW, WIDE, (200, 50)])
async def test_the_table_fits_its_pane(
    smith: Smith, home: Path, until: Until, text: Text, size: tuple[int, int]
) -> None:
    """Both runs are in view whatever their names are; F11 gives them the whole width and cuts no file's name."""
    trained(home, "robot", (0.2,), 1e-4)
    trained(home, LONG, (0.2,), 5e-5)
    app = smith()
    async with app.run_test(size=size) as pilot:
        screen = await marked(app, pilot, until, text)
        table = screen.query_one(SettingTable)

        def fits() -> bool:
            widths = [column.get_render_width(table) for column in table.ordered_columns]
            return len(widths) == 3 and sum(widths) <= table.size.width and not table.show_horizontal_scrollbar

        await until(pilot, lambda: table.row_count and fits())
        await pilot.press("1", "down", "f11")
        await until(pilot, lambda: fits() and table.row_height is None)
        assert table.chosen_key == "1" and all(cell.plain.endswith(".safetensors") for cell in best_files(table))
        assert all("…" not in cell.plain for cell in best_files(table))
        await pilot.press("f11")
        await until(pilot, lambda: fits() and table.row_height == 1)


def best_files(table: SettingTable) -> list[Any]:
    """The cells of the row Best file."""
    return next(row[1:] for place in range(table.row_count) if (row := table.get_row_at(place))[0].plain == "Best file")
