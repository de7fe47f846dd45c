"""Run directories and trainers for the tests of engine.runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.runs import RunDir, prepare_run
from engine.runs.launch import launch

FAKE = Path(__file__).with_name("fake_trainer.py")


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's list of runs is another one in each test, and no test writes beside the checkout."""
    home = tmp_path_factory.mktemp("home")
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(home))


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """The configuration of a run called robot in tmp_path/robot/results_current."""
    output = tmp_path / "robot" / "results_current"
    return RunConfig().changed(saving={"output_name": "robot", "output_dir": str(output)})


@pytest.fixture
def prepared(config: RunConfig) -> RunDir:
    """A run that is ready to launch."""
    return prepare_run(config)


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """start(run_dir, steps, seconds_per_step, mode): launch the fake trainer; ended after the test."""
    processes = []

    def begin(run_dir: RunDir, steps: int = 3, pause: float = 0.01, mode: str = "") -> subprocess.Popen[bytes]:
        command = [sys.executable, str(FAKE), str(run_dir.path), str(steps), str(pause), mode]
        processes.append(launch(run_dir, command=command))
        return processes[-1]

    yield begin
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def eventually() -> Callable[..., None]:
    """eventually(condition): wait until it is true; fail after `seconds`."""

    def wait(condition: Callable[[], object], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "did not come true in time"
            time.sleep(0.02)

    return wait
