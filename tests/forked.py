"""Trainers without the seconds of their imports: forked from a server that has imported all that a trainer needs.

For tests of what a trainer does, not of how it is started: from the fork on it is a process of its own, with its own
session, environment and log, and it ends, is killed and replaces itself as any other.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any

import pytest

from engine.runs.launch import trainer_environment
from engine.runs.layout import RunDir
from tests.memory_limit import FRUGAL

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = ["engine.training.trainer", "engine.models.sd15.load"]


class ForkedTrainer:
    """A trainer on a prepared run; has what the tests use of `subprocess.Popen`.

    Args:
        run: the prepared run.
        before: is called in the new process before the trainer; a function of a module, as processes hand it over.
        variables: of the environment, besides those that the shell command sets.
    """

    def __init__(self, run: RunDir, before: Callable[[], object] | None = None, **variables: str) -> None:
        environment = {**trainer_environment(), **FRUGAL, "PYTHONPATH": str(ROOT), **variables}
        with pytest.MonkeyPatch.context() as patch:  # some of it is read at the server's start and by its imports
            for name, value in environment.items():
                patch.setenv(name, value)
            context: Any = get_context("forkserver")
            context.set_forkserver_preload(IMPORTED)
            forkserver.ensure_running()
        self._process = context.Process(target=_train, args=(run.path, run.log_path, environment, before))
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
