"""`lorasmith` as a process, in a directory and a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.runs import RunDir, is_locked, request

HERE = Path(__file__).parent
PRESET = """[model]
pretrained_model_name_or_path = "model.safetensors"
[dataset]
train_data_dir = "images"
[saving]
output_name = "robot"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a preset robot.toml; the user's own files are elsewhere."""
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    (work / "robot.toml").write_text(PRESET)
    monkeypatch.chdir(work)
    monkeypatch.setenv("PYTHONPATH", str(HERE.parents[1]))
    monkeypatch.setenv("FAKE_TRAINER", "3 0.01")
    return work


@pytest.fixture
def run_dir(place: Path) -> Iterator[RunDir]:
    """Where the run of robot.toml goes; a trainer that is left there is stopped after the test."""
    directory = RunDir(place / "robot" / "results_current")
    yield directory
    end = time.monotonic() + 20
    while is_locked(directory.lock_path) and time.monotonic() < end:
        if not list(directory.control.iterdir()):
            request(directory, "stop")
        time.sleep(0.05)


Lorasmith = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fake_command() -> list[str]:
    """The command line of `lorasmith` with the fake trainer."""
    return [sys.executable, str(HERE / "fake_lorasmith.py")]


@pytest.fixture
def lorasmith(place: Path, fake_command: list[str]) -> Lorasmith:
    """lorasmith(*arguments, trainer="STEPS SECONDS MODE"): run it to its end."""

    def call(*arguments: str, trainer: str = "3 0.01") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*fake_command, *arguments], capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "FAKE_TRAINER": trainer},
        )  # fmt: skip

    return call


@pytest.fixture
def eventually() -> Callable[..., None]:
    """eventually(condition): wait until it is true; fail after `seconds`."""

    def wait(condition: Callable[[], object], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "did not come true in time"
            time.sleep(0.02)

    return wait
