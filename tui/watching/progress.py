"""Progress of a worker, reported at intervals."""

from __future__ import annotations

import time
from collections.abc import Callable

from textual.worker import get_current_worker

SECONDS = 0.15


class WorkerStopped(Exception):
    """The worker that the progress is of was cancelled: it ends silently."""


def throttled(report: Callable[[int, int], object], *, cuts: bool = False) -> Callable[[int, int], None]:
    """`report(done, total)` at most once in `SECONDS`; to be made and called in a worker.

    With `cuts` the returned function raises `WorkerStopped` once the worker is cancelled; without it, work that must
    not be interrupted continues after its screen was left.
    """
    worker = get_current_worker()
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if cuts and worker.is_cancelled:
            raise WorkerStopped
        if time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            report(done, total)

    return progress
