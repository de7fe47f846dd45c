"""The planner's process, seen from outside: it starts when it is first asked. Loads no torch."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any, Self

from engine import errors
from engine.errors import LoraSmithError, TrainingError
from engine.memory.plan import Need, PlanCancelled
from engine.processes import parent_word
from engine.runs.launch import trainer_environment

if TYPE_CHECKING:
    from engine.memory.planner import Request

LOOK_SECONDS = 0.5
"""How often it is asked whether a plan is still wanted."""


class PlannerProcess:
    """`python -m engine.planning`, which ends with the `with` block. It sees no card: a CUDA context would take what is
    planned for.

    Args:
        waiting: called before it is started: that takes time.
        cancelled: asked now and then; True ends it.
    """

    def __init__(
        self, waiting: Callable[[], None] = lambda: None, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        self._waiting, self._cancelled = waiting, cancelled
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = ExitStack()
        self._read = b""

    def __enter__(self) -> Self:
        # A pipe that nobody reads would stop the process when it is full.
        self._told: IO[bytes] = self._stack.enter_context(tempfile.TemporaryFile())
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._stack.close()

    def ask(self, request: Request) -> tuple[Need, ...]:
        """What a run needs in each phase; some seconds, more for the first one.

        Raises:
            LoraSmithError: what would stop the run too.
            TrainingError: the planner failed.
            PlanCancelled: `cancelled` said so.
        """
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request.as_json()).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._failed(process) from None
        return needs_in(json.loads(self._line(process)))

    def _start(self) -> subprocess.Popen[bytes]:
        self._waiting()
        environment = {**trainer_environment(), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "engine.planning", parent_word()]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._told, env=environment, bufsize=0)

    def _line(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None
        while b"\n" not in self._read:
            if select.select([process.stdout], [], [], LOOK_SECONDS)[0]:
                piece = os.read(process.stdout.fileno(), 2**16)
                if not piece:
                    raise self._failed(process)
                self._read += piece
            elif self._cancelled():
                raise PlanCancelled
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _failed(self, process: subprocess.Popen[bytes]) -> TrainingError:
        process.wait()
        self._told.seek(0)
        lines = self._told.read().decode(errors="replace").strip().splitlines()
        return _failure(lines[-1] if lines else f"exit code {process.returncode}")


def needs_in(answer: Mapping[str, Any]) -> tuple[Need, ...]:
    """What the process answered; its errors are raised."""
    if "needs" in answer:
        return tuple(Need(**need) for need in answer["needs"])
    kind = getattr(errors, answer["error"], None) if answer["error"] else None
    if isinstance(kind, type) and issubclass(kind, LoraSmithError):
        raise kind(answer["message"], answer["hint"])
    raise _failure(answer["message"])


def _failure(why: str) -> TrainingError:
    return TrainingError(f"The memory plan failed: {why}", "The run itself may work; please report this.")
