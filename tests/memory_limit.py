"""Trainers under an address-space limit: what makes an out-of-memory real on the CPU."""

from __future__ import annotations

import resource
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from engine.processes import trainer_environment
from engine.runs import RunDir
from engine.runs.launch import trainer_command

if TYPE_CHECKING:
    from tests.forked import ForkedTrainer

STEADY_MALLOC = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "131072",
}
"""Each thread's stack and each of malloc's arenas counts as address space: few of both keep the figure steady. And what
is large gets a mapping of its own for good, which is returned when it is freed: else it stays in malloc's heap."""


def start_limited(run: RunDir, limit: int | None) -> subprocess.Popen[bytes]:
    """The trainer of a prepared run with at most `limit` bytes of address space."""

    def limit_memory() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    with run.log_path.open("ab") as log:
        return subprocess.Popen(
            trainer_command(run),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**trainer_environment(), **STEADY_MALLOC},
            preexec_fn=limit_memory,
        )


def peak_address_space(process: subprocess.Popen[bytes] | ForkedTrainer) -> int:
    """Wait for the end of `process`; the most address space that it had, in bytes."""
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmPeak")]
        peak = max([peak, *(int(size) * 1024 for size in sizes)])
        time.sleep(0.02)
    process.wait()
    return peak
