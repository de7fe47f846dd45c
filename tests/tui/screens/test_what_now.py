"""What now: from the results, on the smallest screen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.families.resolved import resolve_without_model
from engine.results.what_now import lora_of
from tests.fake_run import PlayedTrainer, prepared_run
from tui.app import LoraSmithApp
from tui.screens.dashboard import DashboardScreen
from tui.screens.results import ResultsScreen
from tui.screens.what_now import WhatNowScreen
from tui.screens.what_now import text as page


async def test_the_chosen_file_is_explained_and_its_words_copied(
    smith: Callable[..., LoraSmithApp], home: Path, until: Callable[..., Awaitable[None]],
    text: Callable[[LoraSmithApp], str],
) -> None:  # fmt: skip
    run_dir = prepared_run(home, model={"family": "sdxl", "pretrained_model_name_or_path": "/models/base.safetensors"})
    trainer = PlayedTrainer(run_dir)
    trainer.train(10)
    trainer.save()
    trainer.end()
    app = smith(step="hardware")
    app.first_run = run_dir
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen) and "finished" in text(app))
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, ResultsScreen) and "1 file" in text(app))
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, WhatNowScreen) and "Trigger word: robot" in text(app))
        shown = text(app)
        for expected in ("models/loras", "models/Lora", "<lora:robot-step00000010:0.8>", "StableDiffusionXLPipeline"):
            assert expected in shown, expected
        await pilot.press("p")
        assert app.clipboard == "robot <lora:robot-step00000010:0.8>"
        await pilot.press("c")
        assert app.clipboard.startswith("import torch\nfrom diffusers import StableDiffusionXLPipeline\n")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ResultsScreen))


@pytest.mark.parametrize(("algo", "is_loaded"), [("lora", True), ("lokr", False)])
def test_a_program_that_does_not_load_the_file_has_the_reason_alone(algo: str, is_loaded: bool) -> None:
    config = RunConfig().changed(saving={"output_name": "ann"}, network={"algo": algo})
    shown = page(lora_of(resolve_without_model(config), Path("/x/ann.safetensors"), "sd15")).plain
    assert ("diffusers: loads it from where it is" in shown) == is_loaded
    assert ("diffusers\n  diffusers does not load this file" in shown) != is_loaded
