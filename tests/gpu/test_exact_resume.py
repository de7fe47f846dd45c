"""A run on a GPU that is killed and continues ends with the same bytes as one that is not."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from engine.exit_codes import ExitCode
from engine.processes import trainer_environment
from engine.runs import RunDir, prepare_resume, prepare_run
from engine.runs.events import EventFollower
from engine.runs.launch import trainer_command
from tui.setup import configuration

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

SETTINGS = (
    "memory.device=cuda", "training.num_processes=1", "training.max_train_steps=40",
    "saving.save_state_every_n_steps=10", "sampling.sample_every_n_steps=20", "sampling.sample_steps=2",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")  # the file's metadata holds the time


def start(run: RunDir) -> subprocess.Popen[bytes]:
    with run.log_path.open("ab") as log:
        return subprocess.Popen(trainer_command(run), stdout=log, stderr=log, env=trainer_environment())


def until_step(run: RunDir, process: subprocess.Popen[bytes], step: int) -> None:
    follower = EventFollower(run.events_path)
    while not any(event.type == "step" and event.data["step"] >= step for event in follower.poll()):
        assert process.poll() is None, run.log_path.read_text()
        time.sleep(0.01)


@pytest.mark.timeout(300)
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    finals = []
    for place, kill_at in (("straight", None), ("killed", 15)):
        run = prepare_run(configuration.read("demo", SETTINGS, output_dir=str(tmp_path / place)))
        process = start(run)
        if kill_at is not None:
            until_step(run, process, kill_at)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            prepare_resume(run)
            process = start(run)
        assert process.wait() == ExitCode.DONE, run.log_path.read_text()[-3000:]
        assert "will not be exact" not in run.log_path.read_text()
        finals.append(run.lora_path().read_bytes())
    assert finals[0] == finals[1]
