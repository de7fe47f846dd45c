"""The processes of one run: rank 0 holds the lock and reports, the others only compute."""

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
from engine.processes import parent_token
from engine.runs.launch import trainer_command
from engine.runs.layout import RunDir
from engine.text import plural
from engine.training.oom import read_rank_oom, report_oom
from engine.training.session import Session, Signals

if TYPE_CHECKING:
    from engine.config import RunConfig

LEADER = "LORASMITH_LEADER"
"""Environment variable of a worker: the process of rank 0, with which it ends."""


_ALWAYS = 2
"""Processes allowed on any machine: the demo's preset uses them."""


def require_processors(config: RunConfig) -> None:
    """Refuse more processes than GPUs, or CPU cores: they would only share them.

    Raises:
        UsageError: with the number of processors.
    """
    import torch

    processes, on_cpu = config.training.num_processes, config.memory.device == "cpu" or not torch.cuda.is_available()
    limit = max(usable_threads(), _ALWAYS) if on_cpu else torch.cuda.device_count()
    if processes > limit:
        processors = plural(usable_threads(), "CPU core") if on_cpu else plural(limit, "GPU")
        raise UsageError(
            f"training.num_processes is {processes}, but this machine has {processors}.",
            f"Set training.num_processes={limit} or less: one process for each {'core' if on_cpu else 'GPU'}.",
            code="too-many-processes",
        )


def start_workers(session: Session, num_processes: int) -> None:
    """Start ranks 1 to n-1 with the variables that torch.distributed reads, and make this process rank 0.

    If one of them fails, this process ends too: it may be waiting for that rank inside a collective operation, where no
    Python code runs.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num_processes)}
    os.environ.update({**shared, "RANK": "0", "LOCAL_RANK": "0"})
    workers = [
        subprocess.Popen(
            trainer_command(session.run),
            stdin=subprocess.DEVNULL,
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), LEADER: parent_token()},
        )
        for rank in range(1, num_processes)
    ]
    session.workers = workers
    threading.Thread(target=_watch_workers, args=(session, workers), daemon=True).start()


def _watch_workers(session: Session, workers: list[subprocess.Popen[bytes]]) -> None:
    while True:
        time.sleep(1)
        failed = [worker.returncode for worker in workers if worker.poll() not in (None, 0)]
        if not failed:
            continue
        session.claim_end()
        code = ExitCode.TRAINING_FAILED
        try:
            if shortage := read_rank_oom(session.run):
                code = report_oom(session, shortage)
                return
            session.finish(
                "failed",
                ExitCode.TRAINING_FAILED,
                code="process-lost",
                title="Process lost",
                message=f"One of {len(workers) + 1} training processes ended with code {failed[0]}.",
                hint=f"Its output is in {session.run.log_path}; `lorasmith resume` continues from the last state.",
            )
        finally:
            os._exit(code)


class _NullLog:
    """Event log, state and control box of a rank above 0: nothing is written, no command arrives."""

    def emit(self, *_: Any) -> None: ...

    def update(self, *_: Any, **__: Any) -> None: ...

    def acknowledge(self, *_: Any) -> None: ...

    def take(self) -> list[Any]:
        return []

    poll = take


class Worker(Session):
    """The session of a rank above 0, which reports nothing."""

    is_main = False

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.events = self.state = self.control = _NullLog()  # type: ignore[assignment]
        self.signals = Signals()
        self.step = 0
        self._stop_reason = ""
        self._warned = set()

    def log(self, text: str) -> None:
        """Rank 0 reports it."""

    def warn(self, code: str, text: str, *, once: bool = False, **facts: Any) -> None:
        """Rank 0 reports it."""
