"""Trying a file out from the results: keys only, with a drawing process that loads no model."""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.paths import ASSETS
from engine.processes import process_start
from engine.results import base_choice
from engine.results.trying import TryProcess
from engine.runs import RunDir
from tests.engine.results.test_trying import FAKE
from tests.fake_run import PlayedTrainer, prepared_run
from tui.app import LoraSmithApp
from tui.screens.problem import ProblemScreen
from tui.screens.results import ResultsScreen
from tui.screens.try_out import TryOutScreen
from tui.widgets.image_view import ImageView
from tui.widgets.text_input import TextInput

NARROW, WIDE = (80, 24), (120, 36)
NAME = "lora_unet_down_blocks_0_attentions_0_proj_in"
Until = Callable[..., Awaitable[None]]
Text = Callable[[LoraSmithApp], str]


@pytest.fixture
def run_dir(home: Path) -> RunDir:
    """A finished run with one file that is a LoRA."""
    made = prepared_run(
        home, model={"pretrained_model_name_or_path": str(ASSETS / "demo_base")}, dataset={"resolution": 64},
        sampling={"sample_prompts": ["a {trigger} on a hill --d 5", "a house"]},
    )  # fmt: skip
    trainer = PlayedTrainer(made)
    trainer.train(10)
    path = trainer.save()
    save_file({f"{NAME}.lora_down.weight": torch.ones(2, 16), f"{NAME}.lora_up.weight": torch.ones(16, 2)}, path)
    trainer.sample()
    trainer.end()
    return made


@pytest.fixture
def open_screen(
    smith: Callable[..., LoraSmithApp], run_dir: RunDir, until: Until, text: Text
) -> Callable[[Any], Awaitable[TryOutScreen]]:
    """await open_screen(pilot): from the run over its results to the screen, by keys."""

    async def go(pilot: Any) -> TryOutScreen:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: isinstance(pilot.app.screen, ResultsScreen) and pilot.app.screen.files)
        await pilot.press("p")
        await until(pilot, lambda: isinstance(pilot.app.screen, TryOutScreen))
        screen = pilot.app.screen
        assert isinstance(screen, TryOutScreen)
        await until(pilot, lambda: "Enter generates." in text(pilot.app))
        return screen

    return go


@pytest.fixture
def showing(smith: Callable[..., LoraSmithApp], run_dir: RunDir) -> LoraSmithApp:
    app = smith(step="hardware")
    app.first_run = run_dir
    return app


def play(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    init = TryProcess.__init__
    monkeypatch.setattr(TryProcess, "__init__", lambda self: init(self, [sys.executable, str(FAKE), how]))


async def test_enter_while_the_file_is_read_is_not_lost(
    showing: LoraSmithApp, run_dir: RunDir, until: Until, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, "draw")
    is_read, choose = threading.Event(), base_choice.choose_base

    def choose_late(*arguments: Any, **options: Any) -> Any:
        assert is_read.wait(30)
        return choose(*arguments, **options)

    monkeypatch.setattr(base_choice, "choose_base", choose_late)
    async with showing.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "finished" in text(pilot.app))
        await pilot.press("v")
        await until(pilot, lambda: isinstance(pilot.app.screen, ResultsScreen) and pilot.app.screen.files)
        await pilot.press("p")
        await until(pilot, lambda: "Reading the file" in text(pilot.app))
        await pilot.press("enter")
        is_read.set()
        await until(pilot, lambda: "Grid: try/" in text(pilot.app))


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_the_runs_first_prompt_at_three_strengths_next_to_the_base(
    showing: LoraSmithApp, open_screen: Any, run_dir: RunDir, until: Until, text: Text,
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int],
) -> None:  # fmt: skip
    play(monkeypatch, "draw")
    async with showing.run_test(size=size) as pilot:
        screen = await open_screen(pilot)
        assert [screen.query_one(f"#{name}", TextInput).value for name in ("prompt", "strengths", "seed")] == [
            "a robot on a hill", "0.6,0.8,1.0", "5",
        ]  # fmt: skip
        for expected in ("Try robot-step00000010.safetensors · base demo_base", "F5 Generate", "Strengths", "Seed"):
            assert expected in text(showing), expected
        await pilot.press("enter")
        await until(pilot, lambda: "Grid: " in text(showing))
        labels = next(line for line in text(showing).splitlines() if line.split()[:1] == ["base"])
        assert labels.split() == ["base", "0.6", "0.8", "1"]
        shown = [image.path for image in screen.query(ImageView) if image.path is not None]
        assert len(shown) == 4 and all(path.parent == run_dir.path / "try" for path in shown)
        assert all(image.size.width > 8 for image in screen.query(ImageView) if image.path is not None)
        assert len(list((run_dir.path / "try").glob("*_grid.png"))) == 1
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(showing.screen, ResultsScreen))


async def test_another_prompt_is_drawn_by_the_same_process(
    showing: LoraSmithApp, open_screen: Any, until: Until, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, "draw")
    async with showing.run_test(size=NARROW) as pilot:
        screen = await open_screen(pilot)
        await pilot.press("f5")
        await until(pilot, lambda: "Grid: " in text(showing))
        child = screen._process._worker._process  # type: ignore[union-attr]
        assert child is not None
        await pilot.press(*", red", "tab", "tab", "9", "enter")
        await until(pilot, lambda: screen._drawing is None and "Grid: " in text(showing))
        assert screen.query_one("#prompt", TextInput).value == "a robot on a hill, red"
        assert screen.query_one("#seed", TextInput).value == "59"
        assert screen._process._worker._process is child  # type: ignore[union-attr]
        await pilot.press("escape")
        await until(pilot, lambda: process_start(child.pid) is None)


async def test_escape_stops_first_and_leaves_then(
    showing: LoraSmithApp, open_screen: Any, run_dir: RunDir, until: Until, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, "hang")
    async with showing.run_test(size=NARROW) as pilot:
        screen = await open_screen(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: any(image.path for image in screen.query(ImageView)))
        child = screen._process._worker._process  # type: ignore[union-attr]
        assert child is not None
        await pilot.press("enter")  # a second time nothing begins
        await pilot.press("escape")
        await until(pilot, lambda: "Stopped." in text(showing))
        assert process_start(child.pid) is None and isinstance(showing.screen, TryOutScreen)
        assert len(list((run_dir.path / "try").glob("*.png"))) == 1
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(showing.screen, ResultsScreen))


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("strengths", "much", "much is not a strength."),
        ("strengths", "1,2,3,4,5,6", "At most 5 strengths fit side by side."),
        ("seed", "-1", "The seed is a whole number"),
        ("prompt", " ", "The prompt is empty."),
    ],
)
async def test_a_field_that_cannot_be_read_is_reported(
    showing: LoraSmithApp, open_screen: Any, until: Until, text: Text, monkeypatch: pytest.MonkeyPatch, field: str,
    value: str, sentence: str,
) -> None:  # fmt: skip
    play(monkeypatch, "draw")
    async with showing.run_test(size=NARROW) as pilot:
        screen = await open_screen(pilot)
        screen.query_one(f"#{field}", TextInput).value = value
        await pilot.press("f5")
        await until(pilot, lambda: sentence in text(showing))
        assert screen._process is None


async def test_an_error_of_the_process_is_shown(
    showing: LoraSmithApp, open_screen: Any, until: Until, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, "fail")
    async with showing.run_test(size=NARROW) as pilot:
        await open_screen(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(showing.screen, ProblemScreen))
        assert "It is no model." in text(showing)


async def test_a_file_that_is_no_lora_cannot_be_tried(
    showing: LoraSmithApp, run_dir: RunDir, until: Until, text: Text
) -> None:
    run_dir.lora_path(step=10).write_bytes(b"x" * 100)
    async with showing.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "finished" in text(showing))
        await pilot.press("v")
        await until(pilot, lambda: isinstance(showing.screen, ResultsScreen) and showing.screen.files)
        await pilot.press("p")
        await until(pilot, lambda: isinstance(showing.screen, ProblemScreen))
        await pilot.press("escape")
        await until(pilot, lambda: "This file cannot be tried here." in text(showing))
        await pilot.press("f5")
        assert isinstance(showing.screen, TryOutScreen) and showing.screen._process is None
