"""Draw the demo as an animation, screenshots/animation.gif: the review, the dashboard while it trains, and the results.

    python tools/animation.py            write it
    python tools/animation.py --check    fail when the committed animation does not show what the screens draw

The screens are the real ones and follow a run that is played to them, in the world of `screenshot_world`. Its samples
are those of `lorasmith demo` (screenshots/demo.png, the contact sheet), its measures too. A comment in the GIF is the
digest of all drawings: that is what --check compares, since pixels and palettes differ between versions of libraries.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import math
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from PIL import Image
from screen_images import image
from screenshot_world import HOST, NOW, PID, PLACE, ROOT, world
from textual.pilot import Pilot
from textual.widgets import Input, TextArea

from engine.config import load_config
from engine.runs import EventLog, RunDir, RunLock, prepare_run, write_exit
from engine.runs.events import (
    MeasuresEvent,
    PhaseEvent,
    RunFinishedEvent,
    RunStartedEvent,
    SampleEvent,
    SampleMeasuresEvent,
    SavedEvent,
    StateSavedEvent,
    StepEvent,
    ValidationEvent,
)
from engine.runs.layout import write_record
from screenshots import SKIPPED, Scene, at_rest, normalised, text_of, until
from tests.nvml.fake import NoCompiler
from tui.app import Appearance, LoraSmithApp
from tui.setup.draft import Draft

TARGET = ROOT / "screenshots" / "animation.gif"
SHEET = ROOT / "screenshots" / "demo.png"
SIZE = (100, 36)
COLOURS = 255
"""In all images together; one more is the transparent one, for what stays."""
STEPS, EPOCH, INTERVAL = 140, 16, 35
SHOWN = (0, 12, 24, 35, 47, 58, 70, 82, 94, 105, 117, 128, 140)
"""Steps with an image of the dashboard."""
TILE, PITCH, LEFT, TOP = 192, 198, 200, 30
"""Pixels of a sample in the sheet, from one to the next, and where the first one is."""
STARTED = NOW - 300.0
VALUES = {
    "model.pretrained_model_name_or_path": str(PLACE / "models" / "demo_base"),
    "dataset.train_data_dir": str(PLACE / "images"),
    "dataset.validation_data_dir": str(PLACE / "heldout"),
    "saving.output_name": "smithy",
    "saving.output_dir": str(PLACE / "loras" / "smithy" / "results_current"),
}
LOG = """\
family sd15: StableDiffusionPipeline in diffusers' layout
Precision: fp32 (bf16 has no benefit on a CPU).
16 training images, 4 validation images
16 images × 8 repeats = 128 items
140 steps = 9 epochs (the last one ends after 12 steps)
LoRA modules: text_encoder 18, unet 129; 488,832 parameters in fp32.
"""
PROMPTS = (
    "smithy on a green background",
    "smithy on a pink background",
    "smithy beside a yellow star on a blue background",
    "a red house on a yellow background",
)


@dataclass(frozen=True)
class Measured:
    """What the demo measured of the weights after so many steps."""

    step: int
    validation: float
    training: float
    bleed: float
    response: float
    clipped: float


MEASURED = (
    Measured(0, 0.3921, 0.3806, 0.0, 1.0, 1.0),
    Measured(35, 0.2174, 0.2105, 0.455, 0.880, 1.02),
    Measured(70, 0.1786, 0.1644, 0.462, 1.003, 1.09),
    Measured(105, 0.1663, 0.1575, 0.483, 1.025, 1.31),
    Measured(140, 0.1656, 0.1482, 0.480, 1.027, 1.32),
)


class PlayedRun:
    """A run of the demo, whose events are written as far as the animation is."""

    def __init__(self) -> None:
        config = load_config("demo", [f"{key}={value}" for key, value in VALUES.items()])
        self.run_dir: RunDir = prepare_run(config)
        self.run_dir.log_path.write_text(LOG, "utf-8")
        self._log = EventLog(self.run_dir.events_path)
        self._random, self._average, self._made = random.Random(3), 0.44, 0
        self._log.emit(RunStartedEvent(name=self.run_dir.name, step=0, pid=PID))
        self._log.emit(
            PhaseEvent(
                name="train",
                state="start",
                step=0,
                max_train_steps=STEPS,
                epochs=math.ceil(STEPS / EPOCH),
                updates_per_epoch=EPOCH,
            )
        )
        self._end_interval(MEASURED[0])

    def play(self, step: int) -> None:
        """Everything up to the end of this step."""
        for number in range(self._made + 1, step + 1):
            with mock.patch("time.time", lambda number=number: STARTED + 0.9 * number):
                self._log.emit(self._step(number))
                if number % INTERVAL == 0:
                    self._end_interval(MEASURED[number // INTERVAL])
        self._made = step
        self._record("running")

    def finish(self) -> None:
        """The regular end, after which nothing is written."""
        self._log.emit(RunFinishedEvent(state="finished", exit_code=0, step=STEPS))
        self._log.close()
        self._record("finished")
        write_exit(self.run_dir, "finished", 0, STEPS)

    def _step(self, number: int) -> StepEvent:
        loss = 0.19 + 0.24 * math.exp(-number / 42) + self._random.gauss(0, 0.045)
        self._average += (loss - self._average) * 0.06
        rate = 2e-3 * min(1.0, number / 10) * (0.5 + 0.5 * math.cos(math.pi * number / STEPS))
        return StepEvent(
            step=number,
            epoch=(number - 1) // EPOCH + 1,
            loss=loss,
            loss_average=self._average,
            lr={"unet": rate, "text_encoder": rate / 4},
            grad_norm=0.12,
            images_per_second=8.9,
            seconds_per_step=0.9,
            eta_seconds=(STEPS - number) * 0.95,
            memory={"resident_gib": 0.6},
        )

    def _end_interval(self, measured: Measured) -> None:
        """A file with its measures and samples; before the first step the samples of the base."""
        step, epoch = measured.step, max(0, measured.step - 1) // EPOCH + 1
        if step:
            path = self.run_dir.lora_path() if step == STEPS else self.run_dir.lora_path(step=step)
            with path.open("wb") as file:
                file.truncate(1_039_710)
            self._log.emit(StateSavedEvent(path=str(self.run_dir.checkpoints), step=step, bytes=6_001_440))
            self._log.emit(SavedEvent(path=str(path), bytes=1_039_710, step=step, epoch=epoch, difference=0.0))
        losses = {"loss": measured.validation, "train_loss": measured.training}
        self._log.emit(ValidationEvent(step=step, epoch=epoch, **losses))
        if step:
            self._log.emit(MeasuresEvent(step=step, epoch=epoch, response=measured.response, bleed=measured.bleed))
        self._samples(step)
        if step:
            burn = {"saturation": 1.1, "clipped": measured.clipped, "contrast": 1.0, "detail": 0.95}
            self._log.emit(
                SampleMeasuresEvent(
                    step=step,
                    burn=burn,
                    copying=0.0,
                    copied="smithy_12.png",
                    latent_copying=0.0,
                    latent_base=0.0,
                    latent_copied="smithy_16.png",
                    training_images=16,
                )
            )

    def _samples(self, step: int) -> None:
        self.run_dir.samples.mkdir(exist_ok=True)
        with Image.open(SHEET) as sheet:
            for row, prompt in enumerate(PROMPTS):
                left, top = LEFT + PITCH * (step // INTERVAL), TOP + PITCH * row
                path = self.run_dir.samples / f"{self.run_dir.name}_{step:06d}_{row:02d}_20261123100000_{row + 1}.png"
                sheet.convert("RGB").crop((left, top, left + TILE, top + TILE)).save(path)
                self._log.emit(SampleEvent(path=str(path), prompt=prompt, index=row, step=step))

    def _record(self, state: str) -> None:
        write_record(self.run_dir.state_path, {
            "state": state, "step": self._made, "epoch": max(0, self._made - 1) // EPOCH + 1, "max_train_steps": STEPS,
            "phase": "train" if state == "running" else "", "updated": NOW, "pid": PID + 1, "process_start": 1.0,
            "boot_id": "another", "host": HOST,
        })  # fmt: skip


@contextmanager
def _without_delays() -> Iterator[None]:
    """The dashboard looks often, and draws its chart each time."""
    with mock.patch("tui.screens.dashboard.LIVE_SECONDS", 0.1), mock.patch("tui.widgets.chart.SECONDS", 0.01):
        yield


async def drawn() -> list[tuple[str, float]]:
    """Each drawing as SVG, with the seconds that it is shown."""
    steps = ("hardware", "model", "folders", "captions", "parameters", "review")
    review = LoraSmithApp(None, Appearance(), Draft(preset="demo", values=VALUES, step="review", done=list(steps[:-1])))
    review.first_step = "review"
    drawings = []
    async with review.run_test(size=SIZE) as pilot:
        drawings.append((await _resting(pilot, "Ready to start"), 2.4))
    run = PlayedRun()
    with RunLock(run.run_dir.lock_path):
        run.play(0)
        async with LoraSmithApp(run.run_dir, Appearance()).run_test(size=SIZE) as pilot:
            async for drawing in _dashboard(pilot, run):
                drawings.append(drawing)
    run.finish()
    async with LoraSmithApp(run.run_dir, Appearance()).run_test(size=SIZE) as pilot:
        drawings.append((await _resting(pilot, "finished"), 2.0))
        await pilot.press("v")
        drawings.append((await _resting(pilot, "● best"), 4.0))
    return drawings


async def _dashboard(pilot: Pilot[object], run: PlayedRun) -> AsyncIterator[tuple[str, float]]:
    for step in SHOWN:
        run.play(step)
        sampled = step // INTERVAL * INTERVAL
        shown = f"{step} of {STEPS}", f"▸ step {sampled}" if sampled else "▸ base", "memory used", "488,832"
        yield await _resting(pilot, *shown), 1.0 if step == sampled else 0.45


async def _resting(pilot: Pilot[object], *shown: str) -> str:
    """The screen as SVG, once it shows these texts and has come to rest."""
    scene = Scene("animation", shows=", ".join(shown))
    await until(pilot, scene, lambda: all(text in text_of(pilot.app) for text in shown))
    await at_rest(pilot, scene)
    return normalised(pilot.app.export_screenshot())


def digest(drawings: list[tuple[str, float]]) -> str:
    """SHA-256 of all drawings and their times."""
    return hashlib.sha256("".join(f"{seconds}\n{svg}" for svg, seconds in drawings).encode()).hexdigest()


def committed() -> str:
    """The digest in the committed animation; empty where there is none."""
    if not TARGET.is_file():
        return ""
    with Image.open(TARGET) as animation:
        comment = animation.info.get("comment", b"")
    return bytes(comment).decode("ascii", "replace")


def gif(drawings: list[tuple[str, float]]) -> bytes:
    """The animation, in one palette for all of its images."""
    frames = [image(svg) for svg, _ in drawings]
    width, height = frames[0].size
    strip = Image.new("RGB", (width, height * len(frames)))
    for number, frame in enumerate(frames):
        strip.paste(frame, (0, height * number))
    palette = strip.quantize(COLOURS, dither=Image.Dither.NONE)
    few = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    out = io.BytesIO()
    few[0].save(
        out,
        "GIF",
        save_all=True,
        append_images=few[1:],
        duration=[round(seconds * 1000) for _, seconds in drawings],
        loop=0,
        optimize=False,
        comment=digest(drawings).encode(),
    )
    return out.getvalue()


def main() -> int:
    """Draw, and write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what is committed, write nothing")
    parser.add_argument("--frames", type=Path, metavar="DIR", help="write each image as a PNG into DIR too")
    options = parser.parse_args()
    Input.cursor_blink = TextArea.cursor_blink = False  # type: ignore[assignment]
    try:
        with world(), _without_delays():
            drawings = asyncio.run(drawn())
    except NoCompiler as error:
        print(f"No animation: {error}.", file=sys.stderr)
        return SKIPPED
    if options.check:
        if committed() == digest(drawings):
            return 0
        print(f"Stale: {TARGET.relative_to(ROOT)}. Update it: make screenshots", file=sys.stderr)
        return 1
    for number, (svg, _) in enumerate(drawings):
        if options.frames:
            options.frames.mkdir(parents=True, exist_ok=True)
            image(svg).save(options.frames / f"{number:02d}.png")
    changed = committed() != digest(drawings)
    if changed:
        TARGET.write_bytes(gif(drawings))
    print(f"{len(drawings)} images, {'drawn' if changed else 'as they are'}: {TARGET.stat().st_size / 1024:.0f} KiB.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
