"""Trainers without the seconds of their imports: forked from a server that has imported all that a trainer needs.

For tests of what a trainer does, not of how it is started: from the fork on it is a process of its own, with its own
session, environment and log, and it ends, is killed and replaces itself as any other. `in_a_fork` has the same for a
function that must not leave its traces in the process of the tests.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any, TypeVar

import pytest

from engine.processes import trainer_environment
from engine.runs.layout import RunDir
from tests.memory_limit import STEADY_MALLOC

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = ["engine.training.trainer", "engine.families.unet.load"]
T = TypeVar("T")


def in_a_fork(function: Callable[[], T], seconds: float = 120.0) -> T:
    """What `function`, a function of a module, gives in a process of its own in which torch is imported already."""
    with ProcessPoolExecutor(1, mp_context=_context(_environment())) as pool:
        return pool.submit(function).result(seconds)


def _environment() -> dict[str, str]:
    return {**trainer_environment(), **STEADY_MALLOC, "PYTHONPATH": str(ROOT)}


def _context(environment: Mapping[str, str]) -> Any:
    """The server, started where it is not running yet."""
    with pytest.MonkeyPatch.context() as patch:  # some of it is read at the server's start and by its imports
        for name, value in environment.items():
            patch.setenv(name, value)
        context: Any = get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        forkserver.ensure_running()
    return context


class ForkedTrainer:
    """A trainer on a prepared run; has what the tests use of `subprocess.Popen`.

    Args:
        run: the prepared run.
        before: is called in the new process before the trainer; a function of a module, as processes hand it over.
        variables: of the environment, besides those that the shell command sets.
    """

    def __init__(self, run: RunDir, before: Callable[[], object] | None = None, **variables: str) -> None:
        environment = {**_environment(), **variables}
        self._process = _context(environment).Process(target=_train, args=(run.path, run.log_path, environment, before))
        self._process.start()
        self.pid: int = self._process.pid
        atexit.register(self.kill)

    def poll(self) -> int | None:
        code: int | None = self._process.exitcode
        return code

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("a forked trainer", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork_ranks() -> None:
    """`before` of a trainer with several processes: its ranks are forked from it, instead of started anew."""
    from engine.training import launcher

    launcher.entry_of = lambda run: launcher.Entry(_rank, [str(run.path)], "fork")


def _rank(path: str) -> None:
    """A rank in the process that was forked for it."""
    from engine.training.__main__ import main

    if code := main([path]):
        sys.stdout.flush()
        os._exit(code)


def _train(run: Path, log: Path, environment: dict[str, str], before: Callable[[], object] | None) -> None:
    """In the new process: what `python -m engine.training` begins with, then the same."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    sys.argv = ["engine.training", str(run)]
    if before is not None:
        before()

    from engine.training.__main__ import main

    sys.exit(main([str(run)]))
