"""Draw the screens into screenshots/, in the dark theme and the light one: SVG for the eye of a diff, PNG for the
README. And each of them once more at 80 × 24, as plain text for the tests (tests/snapshots/).

    python tools/screenshots.py            write all
    python tools/screenshots.py --check    fail when a committed image or text is not what the screen draws now
    python tools/screenshots.py home help  only these

The same bytes on every machine: the clock, the paths, the machine and its runs are those of `screenshot_world`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from screen_images import png
from screenshot_world import PLACE, ROOT, world
from textual.pilot import Pilot
from textual.widgets import Input, TextArea

from engine.runs import RunDir
from tests.nvml.fake import NoCompiler
from tui.app import Appearance, LoraSmithApp
from tui.display.themes import DARK, LIGHT
from tui.setup.draft import Draft

FOLDER = ROOT / "screenshots"
TEXTS = ROOT / "tests" / "snapshots"
WIDE, NARROW = (120, 36), (80, 24)
FONT_SIZE = 20.265
"""Pixels: at this size a letter of DejaVu Sans Mono is as wide as a cell of Textual's image, 12.2."""
SECONDS = 20.0
SKIPPED = 77
"""The exit code where there is no C compiler for the stand-in of the NVIDIA driver."""


@dataclass(frozen=True)
class Scene:
    """A screen to draw: a step of the wizard, or the dashboard of a run, after some keys."""

    name: str
    step: str = ""
    run: str = ""
    keys: tuple[str, ...] = ()
    ready: str = "validation"
    """Text to wait for before the keys are pressed."""
    shows: str = ""
    """Text to wait for when it is complete."""
    size: tuple[int, int] = WIDE
    theme: str = DARK.name

    @property
    def light(self) -> Scene:
        """The same in the light theme."""
        return replace(self, name=f"{self.name}-light", theme=LIGHT.name)

    @property
    def narrow(self) -> Scene:
        """The same at 80 × 24."""
        return replace(self, size=NARROW)

    @property
    def path(self) -> Path:
        """The committed drawing: an image, or at 80 × 24 of what is also drawn wider, the text."""
        plain = self.size == NARROW and not self.name.endswith("80x24")
        return TEXTS / f"{self.name}.txt" if plain else FOLDER / f"{self.name}.svg"


COMPARED = ("down", "down", "space", "up", "up", "space", "m")
"""Home's keys that mark lighthouse and smithy-v1, and compare them."""
SCENES = (
    Scene("home", shows="Its trainer is process"),
    Scene("hardware", step="hardware", shows="Ryzen"),
    Scene("model", step="model", shows="Stable Diffusion 1.5"),
    Scene("folders", step="folders", shows="16 images, all with captions"),
    Scene("captions", step="captions", shows="16 of 16"),
    Scene("parameters", step="parameters", shows="steps = "),
    Scene("review", step="review", shows="Ready to start"),
    Scene("dashboard", run="smithy-v1", shows="validation"),
    Scene("dashboard-80x24", run="smithy-v1", shows="validation", size=NARROW),
    Scene("samples-80x24", run="smithy-v1", keys=("2",), shows="prompt 1 of 3", size=NARROW),
    Scene("remedies", run="ember", shows="Out of memory"),
    Scene("results", run="lighthouse", keys=("v",), shows="● best"),
    Scene("compare", keys=COMPARED, ready="Its trainer is process", shows="Best file"),
    Scene("queue", keys=("Q",), ready="Its trainer is process", shows="760/1200"),
    Scene("help", run="smithy-v1", keys=("f1",), shows="Escape closes"),
)


async def draw(scene: Scene, runs: dict[str, RunDir]) -> str:
    """The scene as SVG, once it has come to rest."""
    load = {"NVML_FAKE_LOAD": "97", "NVML_FAKE_USED": "5540"} if scene.run == "smithy-v1" else {}
    with mock.patch.dict(os.environ, {**load, "LORASMITH_THEME": scene.theme}):
        app = LoraSmithApp(runs.get(scene.run), Appearance(), _draft(scene.step))
        app.first_step = scene.step or None
        return await _drawn(app, scene)


async def _drawn(app: LoraSmithApp, scene: Scene) -> str:
    async with app.run_test(size=scene.size) as pilot:
        if scene.keys:
            await until(pilot, scene, lambda: scene.ready in text_of(app))
            await at_rest(pilot, scene)
            await pilot.press(*scene.keys)
        await until(pilot, scene, lambda: scene.shows in text_of(app))
        await at_rest(pilot, scene)
        return normalised(app.export_screenshot()) if scene.path.suffix == ".svg" else text_of(app) + "\n"


def _draft(step: str) -> Draft:
    """The wizard's values up to this step."""
    values = {
        "model.pretrained_model_name_or_path": str(PLACE / "models" / "demo_base"),
        "dataset.train_data_dir": str(PLACE / "images"),
        "dataset.validation_data_dir": str(PLACE / "heldout"),
        "saving.output_name": "smithy",
        "saving.output_dir": str(PLACE / "loras" / "smithy" / "results_current"),
        "memory.device": "cuda:0",
        "training.num_processes": 1,
    }
    steps = ("hardware", "model", "folders", "captions", "parameters", "review")
    if not step:
        return Draft()
    return Draft(preset="demo", values=values, step=step, done=list(steps[: steps.index(step)]))


async def until(pilot: Pilot[Any], scene: Scene, condition: Callable[[], bool]) -> None:
    """Wait until the screen of the scene meets the condition.

    Raises:
        TimeoutError: it does not within SECONDS.
    """
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{scene.name} does not show {scene.shows!r}:\n{text_of(pilot.app)}")
        await pilot.pause(0.05)


async def at_rest(pilot: Pilot[Any], scene: Scene) -> None:
    """Wait until the screen has stayed the same for half a second."""
    before, same = None, 0
    end = time.monotonic() + SECONDS
    while same < 5:
        if time.monotonic() > end:
            raise TimeoutError(f"{scene.name} does not come to rest")
        await pilot.pause(0.1)
        now = pilot.app.screen._compositor.render_strips(pilot.app.size)
        same, before = (same + 1 if now == before else 0), now


def text_of(app: Any) -> str:
    """The screen as plain text."""
    rows = app.screen._compositor.render_strips(app.size)
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in rows)


def normalised(svg: str) -> str:
    """Without fonts from the net, and with fixed ids."""
    svg = re.sub(r"\s*@font-face\s*\{.*?\}", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono").replace("font-size: 20px", f"font-size: {FONT_SIZE}px")
    svg = re.sub(r"terminal-\d+", "terminal", svg)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def draw_all(scenes: tuple[Scene, ...]) -> dict[Path, str]:
    """The path of each drawing, and its text."""
    wide = [scene for scene in scenes if scene.size == WIDE]
    every = [*scenes, *(scene.narrow for scene in wide), *(scene.light for scene in wide)]
    with world() as runs:
        return {scene.path: asyncio.run(draw(scene, runs)) for scene in every}


def stale(drawn: dict[Path, str]) -> list[Path]:
    """The drawings whose committed file differs or is missing."""
    return [path for path, text in drawn.items() if not path.is_file() or path.read_text("utf-8") != text]


def main() -> int:
    """Draw, and write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what is committed, write nothing")
    parser.add_argument("names", nargs="*", choices=[[], *(scene.name for scene in SCENES)], help="only these")
    options = parser.parse_args()
    Input.cursor_blink = TextArea.cursor_blink = False  # type: ignore[assignment]
    scenes = tuple(scene for scene in SCENES if not options.names or scene.name in options.names)
    try:
        drawn = draw_all(scenes)
    except NoCompiler as error:
        print(f"No screenshots: {error}.", file=sys.stderr)
        return SKIPPED
    old = stale(drawn)
    if options.check:
        if old:
            names = ", ".join(str(path.relative_to(ROOT)) for path in old)
            print(f"Stale: {names}. Update them: make screenshots", file=sys.stderr)
        return 1 if old else 0
    for path, text in drawn.items():
        path.parent.mkdir(exist_ok=True)
        if path in old:
            path.write_text(text, "utf-8")
        if path.suffix == ".svg" and (path in old or not path.with_suffix(".png").is_file()):
            path.with_suffix(".png").write_bytes(png(text))
    print(f"{len(drawn)} drawn, {len(old)} changed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
