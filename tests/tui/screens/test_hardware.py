"""The step of the hardware: choosing, looking again, continuing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from textual.widgets import OptionList

from engine.hardware.torch_build import TorchBuild
from tests.nvml.fake import CUDA_TORCH
from tui.app import LoraSmithApp
from tui.screens.hardware import HardwareScreen
from tui.screens.help import HelpScreen
from tui.screens.model import ModelScreen
from tui.widgets.lines import Lines

NARROW, WIDE = (80, 24), (120, 36)
Until = Callable[..., Awaitable[None]]
Smith = Callable[..., LoraSmithApp]
Shown = Callable[[LoraSmithApp], str]
Play = Callable[..., None]


@pytest.fixture
def begin(smith: Smith) -> Smith:
    """The app at the first step."""

    def make(**options: object) -> LoraSmithApp:
        app = smith("hardware", **options)
        app.first_step = "hardware"
        return app

    return make


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_everything_of_a_machine(
    begin: Smith, nvml: Play, until: Until, text: Shown, size: tuple[int, int]
) -> None:
    nvml("two", torch=CUDA_TORCH)
    app = begin()
    async with app.run_test(size=size) as pilot:
        lines = (
            "driver 580.95.05", "RTX 4060 Ti, 16.0 GiB, 15.3 GiB free", "38 °C", "11 of 165 W", "firefox 403.0 MiB",
            "this is 8.9", "bf16 (compute capability 8.9)", "Disk", "built for CUDA 13.0",
            "RAM", "Automatic: GPU 0",
        )  # fmt: skip
        await until(pilot, lambda: all(line in text(app) for line in lines))


async def test_choosing_continuing_and_coming_back(begin: Smith, nvml: Play, until: Until, text: Shown) -> None:
    nvml("two", torch=CUDA_TORCH)
    app = begin()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "GPU 1" in text(app))
        await pilot.press("down", "down")
        await until(pilot, lambda: "fp16 (compute capability 7.5" in text(app))
        assert "● GPU 1" in text(app) and "○ Automatic" in text(app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        assert app.draft.values == {"memory.device": "cuda:1"} and app.draft.done == ["hardware"]
        await pilot.press("escape")
        await until(pilot, lambda: "● GPU 1" in text(app))
        await pilot.press("down", "down")
        await until(pilot, lambda: "The CPU can do everything" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, HardwareScreen))
        assert app.draft.values == {"memory.device": "cpu"}


async def test_all_gpus_together(begin: Smith, nvml: Play, until: Until, text: Shown) -> None:
    """The older of the two decides the precision, and a single place takes the choice back."""
    nvml("two", torch=CUDA_TORCH)
    app = begin()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "○ 2 of 2 GPUs together" in text(app))
        await pilot.press("down", "down", "down")
        await until(pilot, lambda: "● 2 of 2 GPUs together" in text(app) and "Each step" in text(app))
        assert "2 times the images" in text(app) and "! The GPUs differ" in text(app)
        assert "fp16 (compute capability 7.5" in text(app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        assert app.draft.values == {"training.num_processes": "auto"}
        await pilot.press("escape")
        await until(pilot, lambda: "● 2 of 2 GPUs together" in text(app))
        await pilot.press("up", "enter")
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        assert app.draft.values == {"memory.device": "cuda:1"}


@pytest.mark.parametrize("fake", ["rtx2060", "h200"])
async def test_one_gpu_is_not_offered_together(begin: Smith, nvml: Play, until: Until, text: Shown, fake: str) -> None:
    nvml(fake, torch=CUDA_TORCH)
    app = begin()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "○ GPU 0" in text(app))
        assert "together" not in text(app)


async def test_it_keeps_looking_and_the_cursor_stays(
    begin: Smith, nvml: Play, until: Until, text: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml("two", torch=CUDA_TORCH)
    app = begin()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "GPU 1" in text(app))
        await pilot.press("down", "down")
        await until(pilot, lambda: "4 % busy" in text(app))
        drawn: list[object] = []
        with monkeypatch.context() as patch:
            patch.setattr(
                app.screen.query_one("#driver", Lines), "refresh", lambda *content, **_: drawn.append(content)
            )
            nvml("two", torch=CUDA_TORCH, load=96)
            await until(pilot, lambda: "67 °C, 18 of 160 W, 96 % busy" in text(app))
        assert app.screen.query_one(OptionList).highlighted == 2 and not drawn
        nvml("rtx2060", torch=CUDA_TORCH)
        await pilot.press("r")
        await until(pilot, lambda: "● cuda:1: not here" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "✗ cuda:1 is not here" in text(app))
        nvml("no_driver", torch=CUDA_TORCH)
        await pilot.press("r")
        await until(pilot, lambda: "! The NVIDIA driver is installed but not loaded" in text(app))
        await pilot.press("up")
        await until(pilot, lambda: "● CPU" in text(app) and "not here" not in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))


async def test_it_does_not_look_while_it_is_covered(begin: Smith, nvml: Play, until: Until, text: Shown) -> None:
    nvml("rtx2060", torch=CUDA_TORCH)
    app = begin()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "RTX 2060" in text(app))
        screen = app.screen
        assert isinstance(screen, HardwareScreen) and screen._watch is not None
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen) and screen._watch is None)
        await pilot.press("escape")
        await until(pilot, lambda: screen._watch is not None)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, ModelScreen) and screen._watch is None)


@pytest.mark.parametrize("build", [TorchBuild("2.13.0+cpu", None), TorchBuild("2.13.0", "14.0")])
async def test_a_gpu_that_pytorch_cannot_use_is_not_ticked_off(
    begin: Smith, nvml: Play, until: Until, text: Shown, build: TorchBuild
) -> None:
    nvml("h200", torch=build)
    app = begin()
    async with app.run_test(size=WIDE) as pilot:
        await until(pilot, lambda: "Automatic: the CPU" in text(app) and "GPU 0: NVIDIA H200" in text(app))
        await pilot.press("down", "ctrl+n")
        await until(pilot, lambda: "✗ This PyTorch cannot use it, see above. Choose another place." in text(app))
        assert isinstance(app.screen, HardwareScreen) and not app.draft.done
        assert f"! PyTorch {build.version}" in text(app)
        await pilot.press("up", "ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        assert app.draft.done == ["hardware"] and app.draft.get("memory.device") == "auto"
