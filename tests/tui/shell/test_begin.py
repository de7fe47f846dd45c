"""Starting and resuming a run from a screen, with a fake trainer."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.paths import ASSETS
from engine.runs import RunDir, find_runs, launch, true_state
from tests.refusals import refused
from tui.setup.preflight import preflight
from tui.shell.begin import begin, resume

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def config() -> RunConfig:
    """A run on what ships with the program."""
    return RunConfig().changed(
        model={"pretrained_model_name_or_path": str(ASSETS / "demo_base")},
        dataset={"train_data_dir": str(ASSETS / "demo_pictures"), "resolution": 64, "enable_bucket": False},
        memory={"device": "cpu"},
        saving={"output_name": "robot"},
    )


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """trainer("STEPS SECONDS [MODE]"): the fake trainer of the runs started from now on."""

    def use(words: str) -> None:
        fake = ROOT / "tests" / "engine" / "runs" / "fake_trainer.py"
        monkeypatch.setattr(
            launch, "trainer_command", lambda run_dir: [sys.executable, str(fake), str(run_dir.path), *words.split()]
        )

    return use


def test_a_run_is_checked_made_listed_and_launched(
    place: Path, config: RunConfig, trainer: Callable[[str], None], eventually: Callable[..., None], capfd: Any
) -> None:
    trainer("3 0.01")
    counted: list[tuple[int, int]] = []
    run_dir, process = begin(
        config, command_line=["lorasmith", "--preset", "x"], progress=lambda *pair: counted.append(pair)
    )
    assert run_dir.path == place / "robot" / "results_current"
    assert json.loads(run_dir.meta_path.read_text())["command_line"] == ["lorasmith", "--preset", "x"]
    assert counted[-1][0] == counted[-1][1] > 0
    eventually(lambda: process.returncode is not None)  # without a poll of ours: no dead process is left
    assert process.returncode == 0 and true_state(run_dir).state == "finished"
    assert [run.run_dir for run in find_runs()] == [run_dir]
    assert capfd.readouterr() == ("", "")


def test_a_run_that_cannot_be_leaves_nothing(place: Path, config: RunConfig) -> None:
    with refused("nothing-trained"):
        begin(config.changed(training={"unet_lr": 0, "text_encoder_lr": 0}))
    assert not (place / "robot").exists()


def test_an_unfinished_run_is_resumed_or_put_away(
    place: Path, config: RunConfig, trainer: Callable[[str], None], eventually: Callable[..., None]
) -> None:
    trainer("9999 0.02")
    run_dir, process = begin(config)
    eventually(lambda: true_state(run_dir).step > 0)
    os.kill(process.pid, 9)
    eventually(lambda: true_state(run_dir).state == "lost")
    with refused("run-unfinished"):
        begin(config)
    trainer(f"{true_state(run_dir).step + 2} 0.01")
    process = resume(run_dir)
    eventually(lambda: process.returncode is not None)
    assert true_state(run_dir).state == "finished"
    trainer("9999 0.02")
    second, process = begin(config)
    eventually(lambda: true_state(second).step > 0)
    os.kill(process.pid, 9)
    eventually(lambda: true_state(second).state == "lost")
    trainer("1 0.01")
    messages: list[str] = []
    _, process = begin(config, restart=True, log=messages.append)
    eventually(lambda: process.returncode is not None)
    assert any("kept as" in line for line in messages)
    assert len(list(RunDir(run_dir.path).path.parent.glob("results_2*"))) == 2


def test_preflight_writes_nothing_anywhere(place: Path, config: RunConfig, capfd: Any) -> None:
    known = preflight(config)
    assert known.need.total > 0 and known.precision.startswith("Precision: fp32") and known.disk_warning is None
    assert known.settings[-1].startswith("Disk: about")
    assert sorted(place.iterdir()) == [place / "robot.toml"] and capfd.readouterr() == ("", "")
