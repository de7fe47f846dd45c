"""Only the images that a run comes to are encoded: how many is counted, and every number is what it is with all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.exit_codes import ExitCode
from engine.families.unet.model import UNetModel
from engine.runs import RunDir, prepare_resume, read_events
from engine.training.sample_copies import SampleCopies
from engine.training.trainer import Trainer
from tests.engine.training.conftest import MakeRun, start_ranks
from tests.engine.training.test_changes import during, setting
from tests.engine.training.test_train import Train, events, losses
from tests.soak import mostly_soaked

pytestmark = pytest.mark.usefixtures("unread_files", "commands_at_once")
IMAGES = 20
SHORT = {
    "dataset__resolution": 64,
    "dataset__num_repeats": 1,
    "dataset__validation_split": 0,
    "training__max_train_steps": 3,
    "training__train_batch_size": 2,
    "training__max_check_share": 0,
    "training__lr_scheduler": "constant",
    "sampling__sample_every_n_steps": 0,
    "saving__save_state_every_n_steps": 1,
    "network__network_train_unet_only": True,
    "memory__vae_batch_size": 1,
}
"""Three of the ten steps of an epoch: six images."""
PROBES = 4


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(IMAGES):
        values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(values).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"p{seed:02}.png")
        (folder / f"p{seed:02}.txt").write_text("zed")
    return folder


def tensors(run: RunDir) -> bytes:
    """Of the last file: its metadata name the length and the kind of cache."""
    data = run.lora_path().read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


class Encodes:
    """Images that the VAE encoded for a cache, since the last call."""

    def __init__(self) -> None:
        self.number = 0

    def take_count(self) -> int:
        number, self.number = self.number, 0
        return number


@pytest.fixture
def encodes(monkeypatch: pytest.MonkeyPatch) -> Encodes:
    counts, encode = Encodes(), UNetModel.encode_pixels

    def counted(self: UNetModel, pixels: torch.Tensor) -> torch.Tensor:
        counts.number += len(pixels)
        return encode(self, pixels)

    monkeypatch.setattr(UNetModel, "encode_pixels", counted)
    return counts


def progress(run: RunDir, phase: str) -> list[tuple[int, int]]:
    reports = [event for event in events(run, "progress") if event.get("phase") == phase]
    return [(event.get("done"), event.get("total")) for event in reports if event.get("unit") == "images"]


Fill = Callable[[bool], None]
_filled: dict[bool, Path] = {}
"""Caches with every image, unmirrored or in both directions."""


@pytest.fixture
def all_encoded(make_run: MakeRun, train_here: Train, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Fill:
    """all_encoded(flip): fill the cache on the disk with every image. One run fills it; the other tests get a copy,
    since latents are found by the content of the images, which is the same in all of them."""
    cache = tmp_path / "cache" / "lorasmith" / "latents"

    def fill(flip: bool) -> None:
        if flip not in _filled:
            settings = {**SHORT, "memory__cache_latents_to_disk": True, "dataset__flip_aug": flip}
            shutil.rmtree(cache, ignore_errors=True)
            assert train_here(make_run("whole", **settings, **{"training__max_train_epochs": 1})) == ExitCode.DONE
            _filled[flip] = tmp_path_factory.mktemp("filled") / "latents"
            shutil.copytree(cache, _filled[flip])
        shutil.copytree(_filled[flip], cache, dirs_exist_ok=True)

    return fill


COUNTS: dict[str, tuple[dict[str, object], int]] = {
    # name: settings, images that the steps use
    "three steps": ({}, 6),
    "accumulated": ({"training__gradient_accumulation_steps": 3}, 18),
    "mirrored": ({"dataset__flip_aug": True}, 6),
    "an epoch": ({"training__max_train_steps": 10}, 20),
    "longer": ({"training__max_train_steps": 12}, 20),
    "a change makes it longer": ({"training__changes": '["2: training.max_train_steps=5"]'}, 10),
    "a change makes it shorter": ({"training__changes": '["1: training.max_train_steps=2"]'}, 4),
}


@pytest.mark.parametrize(
    ("name", "on_disk"),
    [(name, True) for name in COUNTS]
    + [pytest.param(name, False, marks=[] if name == "an epoch" else pytest.mark.soak) for name in COUNTS],
)
def test_what_the_steps_use_is_encoded_and_gives_the_same_file(
    name: str, on_disk: bool, make_run: MakeRun, train_here: Train, encodes: Encodes, all_encoded: Fill
) -> None:
    settings, used = COUNTS[name]
    settings = {**SHORT, "memory__cache_latents_to_disk": on_disk, **settings}
    some = make_run("some", **settings)
    assert train_here(some) == ExitCode.DONE
    number = encodes.take_count()
    # the images that the weights would be measured on too, which may be among those that are trained on
    assert used <= number <= min(IMAGES * (1 + ("mirrored" in name)), used + PROBES)
    assert max(total for _, total in progress(some, "cache")) <= number
    all_encoded("mirrored" in name)
    encodes.take_count()
    other = make_run("other", **{**settings, "memory__cache_latents_to_disk": True})
    assert train_here(other) == ExitCode.DONE
    assert encodes.take_count() == 0
    assert tensors(other) == tensors(some) and losses(other) == losses(some)


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_run_that_is_extended_at_a_resume_encodes_what_it_then_comes_to(
    on_disk: bool, make_run: MakeRun, train_here: Train, encodes: Encodes
) -> None:
    settings = {**SHORT, "memory__cache_latents_to_disk": on_disk}
    straight = make_run(
        "straight", **{**settings, "training__max_train_steps": 6, "memory__cache_latents_to_disk": False}
    )
    assert train_here(straight) == ExitCode.DONE
    run = make_run("out", **settings)
    assert train_here(run) == ExitCode.DONE
    encodes.take_count()
    prepare_resume(run, changes={"training.max_train_steps": 6})
    assert train_here(run) == ExitCode.DONE
    number = encodes.take_count()
    assert 6 - PROBES <= number <= 6 if on_disk else 6 <= number <= 6 + PROBES
    assert losses(run) == losses(straight) and tensors(run) == tensors(straight)


@pytest.mark.parametrize(
    ("key", "value", "steps"), [("training.max_train_steps", 6, 6), ("training.max_train_epochs", 1, 10)]
)
@pytest.mark.parametrize("on_disk", [True, False])
def test_a_run_that_is_extended_while_it_trains_encodes_at_that_step(
    on_disk: bool,
    key: str,
    value: int,
    steps: int,
    make_run: MakeRun,
    train_here: Train,
    encodes: Encodes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {**SHORT, "memory__cache_latents_to_disk": on_disk}
    run = make_run("out", **settings)
    before: list[int] = []
    with monkeypatch.context() as patch:
        during(patch, {2: setting(key, value), 3: lambda _: before.append(encodes.take_count())})
        assert train_here(run) == ExitCode.DONE
    assert before[0] <= 6 + PROBES and encodes.take_count() <= 2 * steps - 6
    assert len(losses(run)) == steps
    kinds = [(event.get("name"), event.get("state"), event.get("step")) for event in events(run, "phase")]
    assert ("cache", "start", 3) in kinds and ("cache", "end", 3) in kinds
    straight = make_run("straight", **{**settings, "training__max_train_steps": steps})
    assert train_here(straight) == ExitCode.DONE
    assert losses(straight) == losses(run) and tensors(straight) == tensors(run)


def test_a_stop_while_images_are_encoded_later_saves_everything(
    make_run: MakeRun, train_here: Train, encodes: Encodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SHORT, "memory__cache_latents_to_disk": True}
    run = make_run("out", **settings)
    with monkeypatch.context() as patch:

        def stop(trainer: Trainer) -> None:
            build = trainer.prepared.latents.cache.build  # type: ignore[union-attr]

            def stopping(*args: Any, **kwargs: Any) -> Any:
                trainer.session.request_stop("asked to stop")
                return build(*args, **kwargs)

            patch.setattr(trainer.prepared.latents.cache, "build", stopping)  # type: ignore[union-attr]

        during(patch, {2: setting("training.max_train_steps", 6), 3: stop})
        assert train_here(run) == ExitCode.STOPPED
    assert len(losses(run)) == 3
    prepare_resume(run)
    assert train_here(run) == ExitCode.DONE
    straight = make_run("straight", **{**settings, "training__max_train_steps": 6})
    assert train_here(straight) == ExitCode.DONE
    assert losses(straight) == losses(run) and tensors(straight) == tensors(run)


@pytest.mark.parametrize(
    ("harm", "exit_code", "code"),
    [
        (Path.unlink, ExitCode.BAD_DATA, "training-images-unreadable"),
        (lambda path: Image.new("RGB", (64, 64), "red").save(path), ExitCode.USAGE, "inputs-changed"),
    ],
)
def test_an_image_that_was_lost_or_changed_meanwhile_ends_the_run_with_its_name(
    harm: Callable[[Path], None],
    exit_code: ExitCode,
    code: str,
    make_run: MakeRun,
    train_here: Train,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run(**SHORT, memory__cache_latents_to_disk=True)

    def harmed(_: Trainer) -> None:
        for path in images.glob("*.png"):
            harm(path)

    during(monkeypatch, {1: harmed, 2: setting("training.max_train_steps", 6)})
    assert train_here(run) == exit_code
    error = events(run, "error")[-1]
    assert error.get("code") == code and ": p" in error.get("message")
    assert len(losses(run)) == 3


def compared(run: RunDir) -> list[tuple[Any, ...]]:
    names = ("step", "copying", "latent_copying", "latent_base", "latent_copied")
    return [
        tuple(event.get(name) for name in names)
        for event in read_events(run.events_path)
        if event.type == "sample_measures"
    ]


@pytest.mark.parametrize("flip", mostly_soaked([False, True], [True]))
@pytest.mark.parametrize("planned", [True, False])
def test_samples_are_compared_with_the_same_images(
    planned: bool, flip: bool, make_run: MakeRun, train_here: Train, encodes: Encodes, all_encoded: Fill,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Where samples are planned their images are encoded before the first step, else when somebody asks for one."""
    settings = {
        **SHORT, "training__max_check_share": 1, "dataset__flip_aug": flip, "memory__cache_latents_to_disk": True,
        "sampling__sample_every_n_steps": 2 if planned else 0, "sampling__sample_at_first": False,
        "sampling__sample_prompts": '["zed --w 64 --h 64 --d 1"]',
    }  # fmt: skip
    asked = during if not planned else lambda *_: None
    late: list[bool] = []
    training = SampleCopies._training

    def noted(self: SampleCopies, share: float) -> Any:
        before = encodes.number
        yield from training(self, share)
        late.append(encodes.number > before)

    monkeypatch.setattr(SampleCopies, "_training", noted)
    results = []
    for place in ("cold", "warm"):
        run = make_run(place, **settings)
        with monkeypatch.context() as patch:
            asked(patch, {2: lambda trainer: trainer.outputs.sample_now()})
            assert train_here(run) == ExitCode.DONE
        assert not [event.get("text") for event in events(run, "warning") if "compared" in event.get("text", "")]
        results.append((compared(run), losses(run)))
        if place == "cold":
            all_encoded(flip)
            late[1:] = []
    assert results[0] == results[1] and results[0][0]
    assert late[0] == (not planned), "when the images were encoded"


@pytest.mark.slow  # three times two processes
@pytest.mark.timeout(600)
def test_two_processes_encode_what_both_use(make_run: MakeRun) -> None:
    settings = {**SHORT, "training__num_processes": 2, "training__max_train_steps": 2}
    losses_of = []
    for place, on_disk, overrides in (
        ("memory", False, {}),
        ("disk", True, {}),
        ("longer", False, {"training__changes": '["1: training.max_train_steps=4"]'}),
    ):
        run = make_run(place, **{**settings, "memory__cache_latents_to_disk": on_disk, **overrides})
        assert start_ranks(run).wait(timeout=300) == ExitCode.DONE, run.log_path.read_text()[-3000:]
        losses_of.append(losses(run))
    assert losses_of[0] == losses_of[1] == losses_of[2][:2] and len(losses_of[2]) == 4
