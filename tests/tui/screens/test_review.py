"""The review, by keys: what it shows, what stops a run, the command, a preset of one's own, the start."""

from __future__ import annotations

import json
import shlex
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile

from engine.config import ConfigError, RunConfig, dump_toml, load_config
from engine.config.problems import Problem
from engine.errors import DataError, LoraSmithError, ModelError, StorageError, UsageError
from engine.estimate.plan import GIB, Need
from engine.estimate.process import PlannerProcess
from engine.paths import ASSETS, user_config
from engine.runs import RunDir, is_locked, launch, prepare_run, request, true_state
from engine.runs.state import write_exit
from tests.nvml.fake import CUDA_TORCH
from tests.tui.ready import READY
from tests.tui.setup.test_draft import parsed
from tui.app import LoraSmithApp
from tui.screens.dashboard import DashboardScreen
from tui.screens.home import HomeScreen
from tui.screens.parameters import ParametersScreen
from tui.screens.review import ReviewScreen
from tui.setup.review_report import step_to_fix
from tui.widgets.field import FieldForm, FieldList
from tui.widgets.hanging import Hanging

Smith = Callable[..., LoraSmithApp]
Until = Callable[..., Awaitable[None]]
Shown = Callable[[LoraSmithApp], str]

ROOT = Path(__file__).resolve().parents[3]
VALIDATION = {"dataset.validation_data_dir": str(ASSETS / "demo_heldout")}
"""What the preset's interval of the validation is for."""


@pytest.fixture
def opened(ready: Smith) -> Smith:
    """opened(values, ...): the app that begins with the review of a run on what ships with the program."""
    return lambda values=None, **more: ready("review", {**VALIDATION, **(values or {})}, **{"preset": "demo", **more})


@pytest.fixture
def place(home: Path) -> RunDir:
    """Where the run goes."""
    return RunDir(home / "robot" / "results_current")


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, place: RunDir) -> Iterator[None]:
    """The fake trainer, which makes 9999 steps unless it is stopped; it is stopped after the test."""
    fake = ROOT / "tests" / "engine" / "runs" / "fake_trainer.py"
    monkeypatch.setattr(
        launch, "trainer_command", lambda run_dir: [sys.executable, str(fake), str(run_dir.path), "9999", "0.02"]
    )
    yield
    end = time.monotonic() + 20
    while is_locked(place.lock_path) and time.monotonic() < end:
        if not list(place.control.iterdir()):
            request(place, "stop")
        time.sleep(0.05)


def report_text(app: LoraSmithApp) -> str:
    """All of the review's text, also what is scrolled away."""
    for screen in app.screen_stack:
        if isinstance(screen, ReviewScreen):
            return screen.query_one(Hanging).text
    return ""


def unfinished(place: RunDir) -> None:
    """A run that was stopped at step 40."""
    config = RunConfig().changed(saving={"output_name": "robot", "output_dir": str(place.path)})
    prepare_run(config)
    place.checkpoints.mkdir()
    (place.checkpoints / "step40").mkdir()
    write_exit(place, "stopped", 6, 40)


async def test_it_shows_everything_before_the_start(opened: Smith, until: Until, text: Shown, home: Path) -> None:
    app = opened({"training.unet_lr": 1e-3})
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Ready to start." in text(app))
        words = report_text(app)
        await pilot.press("pagedown", "end")
        await until(pilot, lambda: "lorasmith --preset demo" in text(app))
    for part in (
        f"{home}/robot/results_current/robot.safetensors", "16 images × 8 repeats = 128 items",
        "140 steps = 9 epochs", "Time: unknown until the first steps", "Disk: about", "are free", "prediction type",
        "16 training images", "Precision: fp32 (bf16 has no", "VRAM: none is used",
        "• U-Net learning rate: 0.001 (preset: 0.002)", "Rank: 8", app.draft.command(),
    ):  # fmt: skip
        assert part in words, part
    assert not list(home.iterdir())


async def test_the_memory_plan_comes_when_it_is_made(
    opened: Smith, until: Until, text: Shown, nvml: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the review is shown, and the run can be started."""
    made = threading.Event()

    def answer(_: PlannerProcess, request: object) -> tuple[Need, ...]:
        assert made.wait(20)
        return (Need("train", 5 * GIB, 5 * GIB, {"weights": 5 * GIB}),)

    monkeypatch.setattr(PlannerProcess, "ask", answer)
    nvml("h200", torch=CUDA_TORCH)
    app = opened({"memory.device": "auto", "training.num_processes": 1})
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Ready to start." in text(app))
        assert "computing what the run needs" in report_text(app)
        made.set()
        await until(pilot, lambda: "VRAM: about 5.5 GiB while training, fits NVIDIA H200" in report_text(app))
        assert "weights 5.0 GiB, context 512.0 MiB" in report_text(app)


async def test_warnings_stand_first(opened: Smith, until: Until, text: Shown, home: Path) -> None:
    images = home / "images [x]"
    images.mkdir()
    for file in sorted((ASSETS / "demo_pictures").glob("*.png"))[:3]:
        (images / file.name).write_bytes(file.read_bytes())
    (images / "broken.png").write_bytes(b"")
    app = opened({"dataset.train_data_dir": str(images), "memory.cache_text_encoder_outputs": True})
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Ready. Read the lines with ! first." in text(app))
        lines = report_text(app).split("\n")
    assert lines[0].startswith("! The text encoder is not trained")
    assert lines[1:3] == [
        "! 1 file cannot be used and will be left out, see below.",
        "! 3 images without a caption: “smithy” is used instead. Fix it in the step Captions.",
    ]


@pytest.mark.parametrize("key", ["", "training.lr_scheduler_power"])
async def test_only_what_the_person_set_in_vain_is_a_warning(ready: Smith, until: Until, text: Shown, key: str) -> None:
    """The preset sets an interval of the validation, and there are too few images for any: that is no mistake."""
    app = ready("review", {key: 2.0} if key else {}, preset="demo")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Ready" in text(app))
        lines = report_text(app).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("! ")] == ([key] if key else [])
    shown = " ".join(" ".join(lines).split())
    assert "No validation images: 20 images or more are needed for that." in shown
    assert "validate_every_n_steps has no effect" not in shown and "validation and" not in shown


async def test_a_preset_of_another_family_is_a_warning(ready: Smith, until: Until, text: Shown) -> None:
    app = ready("review", {}, preset="sdxl")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Ready" in text(app))
        first = report_text(app).splitlines()[0]
    assert first.startswith("! The preset sdxl is made for SDXL, and this model is Stable Diffusion 1.5")


async def test_the_command_is_copied_and_means_the_same(
    opened: Smith, until: Until, text: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened({"sampling.sample_prompts": ["a 'cat' [x]"], "training.seed": 7})
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: "Ready to start." in text(app))
        await pilot.press("c")
        await until(pilot, lambda: "Copied" in text(app))
        assert app.clipboard == app.draft.command()
        assert parsed(app.clipboard, monkeypatch) == app.draft.config()


@pytest.mark.parametrize(
    ("values", "sentence", "step"),
    [
        ({"dataset.train_data_dir": "/nowhere"}, "does not exist", "folders"),
        ({"dataset.train_data_dir": ""}, "No images are chosen.", "folders"),
        ({"model.pretrained_model_name_or_path": "x.safetensors"}, "There is no file or folder", "model"),
        ({"saving.output_name": "a\x01b"}, "cannot be a file name", "folders"),
        ({"memory.device": "cuda:7"}, "memory.device=cuda:7", "hardware"),
        ({"training.seed": -1}, "training.seed", "parameters"),
        ({"training.unet_lr": 0, "training.text_encoder_lr": 0}, "Nothing would be trained", "parameters"),
    ],
)
async def test_what_stops_a_run_is_shown_with_its_fix(
    opened: Smith, until: Until, text: Shown, values: dict[str, Any], sentence: str, step: str
) -> None:
    app = opened(values)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "e goes to" in text(app))
        assert sentence in report_text(app) and "✗" in text(app)
        await pilot.press("ctrl+n")
        assert isinstance(app.screen, ReviewScreen) and "review" not in app.draft.done
        assert app.screen.obstacle is not None and app.screen.obstacle[1] == step


async def test_one_key_goes_where_it_is_fixed(opened: Smith, until: Until, text: Shown) -> None:
    app = opened({"training.seed": -1})
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "e goes to Parameters" in text(app))
        await pilot.press("e")
        await until(pilot, lambda: app.draft.step == "parameters" and "✗ Seed" in text(app))


async def test_the_field_at_fault_is_shown_although_it_is_advanced(
    opened: Smith, until: Until, text: Shown, tmp_path: Path
) -> None:
    """Only the check knows that this argument of a file is none; the row is marked, in view, until an edit."""
    file = tmp_path / "own.toml"
    file.write_text(dump_toml(load_config("demo", ['training.optimizer_args=["foo=1"]'])))
    app = opened(preset=str(file), extras={"parameters.cursor": "network.network_dim"})
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "e goes to Parameters" in text(app))
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, ParametersScreen) and "✗ " in text(app))
        rows = app.screen.query_one(FieldList)
        await until(pilot, lambda: rows.key == "training.optimizer_args" and "✗ Optimizer settings" in text(app))
        assert "    ✗ AdamW does not take these settings" in text(app)
        app.screen.query_one(FieldForm).form.enter("network.network_dim", "8")
        rows.reload()
        await until(pilot, lambda: "✗ AdamW" not in text(app))


async def test_after_fixing_it_is_checked_again(opened: Smith, until: Until, text: Shown, home: Path) -> None:
    app = opened({"dataset.train_data_dir": str(home / "late")})
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "e goes to Folders" in text(app))
        (home / "late").symlink_to(ASSETS / "demo_pictures")
        await pilot.press("r")
        await until(pilot, lambda: "Ready to start." in text(app))


@pytest.mark.parametrize(
    ("error", "step"),
    [
        (ModelError("It is broken."), "model"),
        (DataError("A caption is not UTF-8.", code="caption-not-utf8"), "captions"),
        (DataError("No usable images.", code="no-usable-images"), "folders"),
        (StorageError("Writing failed.", code="not-writable"), "folders"),
        (UsageError("Nothing.", code="nothing-trained"), "parameters"),
        (UsageError("There is no GPU.", code="no-gpu"), "hardware"),
        (UsageError("It is too long.", code="name-too-long"), "folders"),
        (UsageError("saving.output_dir has bytes that are not UTF-8.", code="path-not-utf8"), "folders"),
        (ConfigError([Problem("x.toml", "dataset.num_repeats", "0 is given.")]), "folders"),
        (ConfigError([Problem("x.toml", "training.seed", "0.5 is given.")]), "parameters"),
        (UsageError("There is no sampler.", code="no-such-sampler"), "parameters"),
    ],
)
def test_errors_name_the_step_that_fixes_them(error: LoraSmithError, step: str) -> None:
    assert step_to_fix(error) == step


async def test_a_preset_of_ones_own(opened: Smith, until: Until, text: Shown) -> None:
    app = opened({"training.seed": 7})
    path = user_config() / "presets" / "mine.toml"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Ready to start." in text(app))
        before = app.draft.config()
        await pilot.press("p", *"a/b", "enter")
        await until(pilot, lambda: "✗ The name 'a/b' cannot be a preset" in text(app))
        await pilot.press("ctrl+u", *"mine", "enter")
        await until(pilot, lambda: "Saved as the preset mine" in text(app))
        assert load_config("mine").training.seed == 7 and load_config("mine").saving.output_name == ""
        assert app.draft.preset == "mine" and app.draft.config() == before
        path.write_text("# Edited by hand\n" + path.read_text())
        await pilot.press("p", *"mine", "enter")
        await until(pilot, lambda: "The preset mine exists already" in text(app))
        await pilot.press("enter")  # keep the old one
        await until(pilot, lambda: isinstance(app.screen, ReviewScreen))
        assert path.read_text().startswith("# Edited by hand")
        await pilot.press("p", *"mine", "enter")
        await until(pilot, lambda: "The preset mine exists already" in text(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: not path.read_text().startswith("# Edited by hand"))
        await pilot.press("p", "escape")
        await until(pilot, lambda: isinstance(app.screen, ReviewScreen))


async def test_the_start_leads_to_the_dashboard_and_keeps_the_draft(
    opened: Smith, until: Until, text: Shown, trainer: None, place: RunDir
) -> None:
    app = opened(done=("model", "folders"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Ready to start." in text(app))
        command = app.draft.command()
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
        await until(pilot, lambda: true_state(place).step > 0)
        assert [type(screen) for screen in app.screen_stack] == [HomeScreen, DashboardScreen]
    assert json.loads(place.meta_path.read_text())["command_line"] == shlex.split(command)
    assert app.draft.step == "hardware" and app.draft.done == [] and app.draft.values == {**READY, **VALIDATION}
    assert not app.draft.unfinished


async def test_an_unfinished_run_is_put_away_when_asked(
    opened: Smith, until: Until, text: Shown, trainer: None, place: RunDir
) -> None:
    unfinished(place)
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "! " in report_text(app) and "unfinished run (stopped, step 40)" in report_text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "Continue it from step 40" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ReviewScreen))
        await pilot.press("ctrl+n", "down", "enter")
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
        await until(pilot, lambda: true_state(place).step > 0)
    kept = [RunDir(path) for path in place.path.parent.glob("results_2*")]
    assert [true_state(run_dir).step for run_dir in kept] == [40]


async def test_an_unfinished_run_is_continued_when_asked(
    opened: Smith, until: Until, text: Shown, trainer: None, place: RunDir
) -> None:
    unfinished(place)
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "unfinished run" in report_text(app))
        await pilot.press("ctrl+n", "enter")
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
        await until(pilot, lambda: true_state(place).live)
    assert not list(place.path.parent.glob("results_2*"))


async def test_a_live_run_in_the_place_can_be_watched(
    opened: Smith, until: Until, text: Shown, trainer: None, place: RunDir
) -> None:
    config = RunConfig().changed(saving={"output_name": "robot", "output_dir": str(place.path)})
    process = launch.launch(prepare_run(config))
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: true_state(place).step > 0)
        await pilot.press("r")
        await until(pilot, lambda: "It is training already: Ctrl+N watches it." in text(app))
        assert "^n Watch it" in text(app) and "e Fix" in text(app) and "Start training" not in text(app)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
    request(place, "stop")
    process.wait(timeout=20)


async def test_a_start_that_fails_is_shown_and_nothing_is_lost(
    opened: Smith, until: Until, text: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError("No space left.", "Free some.")

    monkeypatch.setattr("tui.screens.starting.begin", fail)
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Ready to start." in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "✗ Storage" in text(app) and "Free some." in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "Ready to start." in text(app))
        assert app.draft.step == "review"
        await pilot.press("escape")
        await until(pilot, lambda: app.draft.step == "parameters")


async def test_a_preset_that_is_gone_is_reported(opened: Smith, until: Until, text: Shown) -> None:
    app = opened({"dataset.resolution": 64, "dataset.enable_bucket": False}, preset="gone")
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: "The preset gone cannot be used" in text(app) and "Ready to start." in text(app))
        assert app.draft.preset == "sd15-realistic"


@pytest.mark.parametrize(
    ("captions", "values", "sentences"),
    [
        ({"": "a fox"}, {}, ["3 of 3 captions do not have the trigger word “smithy”", "Only 3 images to train on"]),
        ({"": "robot"}, {"dataset.class_tokens": None}, ["Only 3 images to train on"]),
        ({"": "a fox"}, {"dataset.class_tokens": None}, ["do not have the trigger word “robot”", "Only 3 images"]),
        ({"": "smithy " * 2781}, {}, ["3 of 3 captions are longer than 75 tokens", "Only 3 images"]),
        ({"": "smithy", "0": ""}, {}, ["1 image with an empty caption: “smithy” is used", "Only 3 images"]),
        ({"1": "smithy"}, {}, ["2 images without a caption: “smithy” is used", "Only 3 images"]),
    ],
)
async def test_what_the_captions_lack_is_reported_before_the_start(
    opened: Smith,
    until: Until,
    text: Shown,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    captions: dict[str, str],
    values: dict[str, Any],
    sentences: list[str],
) -> None:
    """Captions and Parameters were never visited; no image is decoded."""
    folder = home / "photos"
    folder.mkdir()
    for stem in "012":
        Image.new("RGB", (64, 64), "red").save(folder / f"{stem}.png")
        if (caption := captions.get(stem, captions.get(""))) is not None:
            (folder / f"{stem}.txt").write_text(caption)

    def decoded(*_: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    app = opened({"dataset.train_data_dir": str(folder), **values})
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Ready. Read the lines with ! first." in text(app))
        lines = [line for line in report_text(app).splitlines() if line.startswith("! ")]
        assert len(lines) == len(sentences), lines
        for line, sentence in zip(lines, sentences, strict=True):
            assert sentence in line and "Fix it in the step " in line
        assert lines[-1].endswith("Fix it in the step Folders.")
        assert "Trigger word: " in report_text(app)


async def test_after_a_start_the_next_run_under_another_name_keeps_the_trigger(
    opened: Smith, until: Until, text: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "With the settings of the last one": the word that the last run was trained with stays."""
    app = opened({"dataset.class_tokens": None})
    monkeypatch.setattr(app, "open_run", lambda _run_dir: None)
    monkeypatch.setattr("tui.screens.starting.begin", lambda *_args, **_more: (None, None))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Ready" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "started" in app.draft.extras)
        assert not app.draft.unfinished
        app.draft.set("saving.output_name", "another")
        assert app.draft.config().trigger == "robot"
