"""`lorasmith` in a real terminal, in a directory and a home of its own, and runs to watch there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.config import RunConfig
from engine.runs import RunDir, prepare_run, true_state
from engine.runs.launch import launch

if TYPE_CHECKING:
    from terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "tests" / "engine" / "runs" / "fake_trainer.py"
_spec = importlib.util.spec_from_file_location("lorasmith_test_terminal", Path(__file__).with_name("terminal.py"))
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; the user's own files are next to it."""
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    for variable in ("NO_COLOR", "COLORTERM", "LORASMITH_THEME", "CUDA_VISIBLE_DEVICES", "TERM_PROGRAM"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


Start = Callable[..., "Terminal"]


@pytest.fixture
def start(place: Path) -> Iterator[Start]:
    """start(*arguments, term="xterm-256color", size=(80, 24), command=None, **variables): `lorasmith` in a terminal."""
    begun: list[Terminal] = []

    def begin(
        *arguments: str,
        term: str = "xterm-256color",
        size: tuple[int, int] = (80, 24),
        command: list[str] | None = None,
        **variables: str,
    ) -> Terminal:
        line = command or [sys.executable, "-m", "tui.main"]
        environment = {**os.environ, "TERM": term, "LANG": "C.UTF-8", **variables}
        begun.append(_module.Terminal([*line, *arguments], environment, *size))
        return begun[-1]

    yield begin
    for terminal in begun:
        terminal.close()


@pytest.fixture
def live(place: Path) -> Iterator[RunDir]:
    """A run called robot that a fake trainer works on, twenty steps a second."""
    run_dir = prepare_run(RunConfig().changed(saving={"output_name": "robot"}))
    process = launch(run_dir, command=[sys.executable, str(FAKE), str(run_dir.path), "99999", "0.05"])
    end = time.monotonic() + 20
    while true_state(run_dir).step < 1:
        assert time.monotonic() < end
        time.sleep(0.02)
    yield run_dir
    process.kill()
    process.wait()


@pytest.fixture
def seconds_of_cpu() -> Callable[[subprocess.Popen[bytes]], float]:
    """seconds_of_cpu(process): processor time that it has used so far."""

    def used(process: subprocess.Popen[bytes]) -> float:
        fields = Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    return used
