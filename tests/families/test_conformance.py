"""Every family does what the suite asks; and one that is no part of the program does it from start to end."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from engine.adapters.inspect import inspect_lora
from engine.exit_codes import ExitCode
from engine.runs.events import read_events
from engine.training.trainer import Trainer
from tests.engine.training.conftest import MakeRun, images, make_run, train_in_process
from tests.families.conformance import CHECKS, MORE_CHECKS, Case
from tests.families.conftest import PLUGIN
from tests.refusals import refused

__all__ = ["images", "make_run"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tiny_model(toy_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make_run` trains on."""
    from toy_family.model import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("toy") / "toy.safetensors")


@pytest.mark.parametrize(
    "check",
    [*CHECKS, *(pytest.param(check, marks=pytest.mark.soak) for check in MORE_CHECKS)],
    ids=lambda check: check.__name__,
)
def test_every_family(case: Case, check: Callable[..., None], tmp_path: Path) -> None:
    check(case, tmp_path) if "folder" in inspect.signature(check).parameters else check(case)


SHORT = {
    "dataset__min_bucket_reso": 32,
    "training__max_train_steps": 4,
    "saving__save_state_every_n_steps": 2,
    "sampling__sample_every_n_steps": 4,
    "memory__gradient_checkpointing": True,
    "memory__cache_text_encoder_outputs": True,
    "memory__base_precision": "int8",
    "memory__device": "cpu",
    "memory__mixed_precision": "no",
}


def test_the_toy_is_trained_and_resumed_to_the_byte(
    toy_installed: None, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, halted = make_run("straight", **SHORT), make_run("halted", **SHORT)
    assert train_in_process(straight) == ExitCode.DONE
    events = list(read_events(straight.events_path))
    saved = next(event for event in events if event.type == "saved" and event.get("path") == str(straight.lora_path()))
    assert saved.get("difference") < 1e-3
    report = inspect_lora(straight.lora_path())
    assert report.base == "Toy" and report.modules == report.known_modules == {"transformer": 4}
    assert report.problems == [] and report.metadata["ss_base_model_version"] == "toy1"
    with Image.open(next(straight.samples.glob("*.png"))) as image:
        assert "Model: toy" in image.info["parameters"] and "ToyTextLoader" in image.info["prompt"]
    advance = Trainer.advance

    def stop_at_three(self: Trainer) -> bool:
        if self.step == 3:
            self.session.stop_reason = "test"
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", stop_at_three)
        assert train_in_process(halted) == ExitCode.STOPPED
    assert train_in_process(halted) == ExitCode.DONE
    assert halted.lora_path().read_bytes() == straight.lora_path().read_bytes()


SMALL = ("--set", "dataset.resolution=64", "--set", "dataset.min_bucket_reso=32")


def shell(*words: str) -> subprocess.CompletedProcess[str]:
    """A shell command where the toy's package is installed."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{PLUGIN}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tui.main", *words], env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_toy_is_planned_and_exported_by_other_processes(tiny_model: Path, images: Path, tmp_path: Path) -> None:
    """The planner is a process that the command starts, and finds the family by its entry point as well."""
    words = ["--model", str(tiny_model), "--images", str(images)]
    planned = shell("plan", "--preset", "sd15-realistic", *words, *SMALL, "--json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert plan["peak_gib"] > 0 and {"train", "sample", "save"} <= plan["phases"].keys()
    exported = shell("export", "sd15-realistic", "--kohya", str(tmp_path / "kohya"), *words, "--name", "zed")
    assert exported.returncode == 0, exported.stderr
    assert "toy_train_network.py" in (tmp_path / "kohya" / "train.sh").read_text()


def test_a_family_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.families.registry import families

    place = tmp_path / "broken-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (place / "entry_points.txt").write_text("[lorasmith.families]\nbroken = broken.family:Broken\n")
    monkeypatch.syspath_prepend(tmp_path)
    families.cache_clear()
    with refused("plugin-not-loadable", "broken (broken.family:Broken)"):
        families()
    monkeypatch.undo()
    families.cache_clear()
