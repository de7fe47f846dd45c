"""Several trainers on one run: rank 0 holds the lock and tells, the others compute; gradients are averaged."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.hardware.system import usable_threads
from engine.processes import parent_word
from engine.runs.launch import trainer_command
from engine.runs.layout import RunDir
from engine.text import plural
from engine.training.exhausted import tell, word_of_others
from engine.training.session import Session, Signals

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from engine.config import RunConfig

LEADER = "LORASMITH_LEADER"
"""Environment variable of a helper: rank 0, with which it ends."""


_ALWAYS = 2
"""Processes that any machine may have: the demo's preset asks for them."""


def require_processors(config: RunConfig) -> None:
    """Refuse more processes than there are GPUs, or on the CPU cores: they would only share them.

    Raises:
        UsageError: says how many there are.
    """
    import torch

    wanted, on_cpu = config.training.num_processes, config.memory.device == "cpu" or not torch.cuda.is_available()
    there = max(usable_threads(), _ALWAYS) if on_cpu else torch.cuda.device_count()
    if wanted > there:
        what = plural(usable_threads(), "CPU core") if on_cpu else plural(there, "GPU")
        raise UsageError(
            f"training.num_processes is {wanted}, but this machine has {what}.",
            f"Set training.num_processes={there} or less: one process for each {'core' if on_cpu else 'GPU'}.",
        )


def start_others(session: Session, num_processes: int) -> None:
    """Start ranks 1 … n-1 with the variables that torch.distributed reads, and make this process rank 0.

    When one of them ends badly, this process ends too: it may be waiting for that one inside a collective operation,
    where no Python runs.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num_processes)}
    os.environ.update({**shared, "RANK": "0", "LOCAL_RANK": "0"})
    others = [
        subprocess.Popen(
            trainer_command(session.run),
            stdin=subprocess.DEVNULL,
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), LEADER: parent_word()},
        )
        for rank in range(1, num_processes)
    ]
    session.others = others
    threading.Thread(target=_watch_others, args=(session, others), daemon=True).start()


def _watch_others(session: Session, others: list[subprocess.Popen[bytes]]) -> None:
    while True:
        time.sleep(1)
        failed = [other.returncode for other in others if other.poll() not in (None, 0)]
        if not failed:
            continue
        session.claim_end()
        code = ExitCode.TRAINING_FAILED
        try:
            if told := word_of_others(session.run):
                code = tell(session, told)
                return
            session.finish(
                "failed",
                ExitCode.TRAINING_FAILED,
                title="Process lost",
                message=f"One of {len(others) + 1} training processes ended with code {failed[0]}.",
                hint=f"What it said is in {session.run.log_path}; `lorasmith resume` goes on from the last state.",
            )
        finally:
            os._exit(code)


class _Mute:
    """Takes the place of a log that only rank 0 writes."""

    def emit(self, *_: Any, **__: Any) -> None: ...

    def update(self, *_: Any, **__: Any) -> None: ...

    def acknowledge(self, *_: Any) -> None: ...

    def take(self) -> list[Any]:
        return []


class Helper(Session):
    """The session of a rank above 0: says nothing."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.events = self.state = self.control = _Mute()  # type: ignore[assignment]
        self.signals = Signals()
        self.step = 0
        self._stop_reason = ""
        self._warned = set()

    def say(self, text: str) -> None:
        """Rank 0 says it."""

    def warn(self, code: str, text: str, *, once: bool = False, **facts: Any) -> None:
        """Rank 0 says it."""


class Team:
    """All ranks of one run, through accelerate; with one process everything is for free."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.size = accelerator.num_processes
        self.rank = accelerator.process_index

    @property
    def leads(self) -> bool:
        """Rank 0 writes files and tells."""
        return bool(self.rank == 0)

    def mean(self, value: torch.Tensor) -> float:
        """The mean over all ranks; not finite if it is not on one of them."""
        return float(self.accelerator.reduce(value, "mean")) if self.size > 1 else float(value)

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replace every gradient by the mean over all ranks, in one message."""
        if self.size == 1:
            return
        import torch

        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self.accelerator.reduce(torch.cat([gradient.reshape(-1) for gradient in gradients]), "mean")
        start = 0
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = flat[start : start + gradient.numel()].view_as(gradient)
            start += gradient.numel()

    def share(self, value: Any) -> Any:
        """What rank 0 has, on every rank."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]
