"""Progress of a worker, told now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from textual.worker import get_current_worker

SECONDS = 0.15


class Cut(Exception):
    """The worker that asked is no longer wanted: it ends without a word."""


def seldom(tell: Callable[[int, int], object], *, cuts: bool = False) -> Callable[[int, int], None]:
    """`tell(done, total)` at most once in `SECONDS`; to be made and called in a worker.

    With `cuts` the function that is returned raises `Cut` once the worker was cancelled; without, work that must be
    whole goes on after its screen was left.
    """
    worker = get_current_worker()
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if cuts and worker.is_cancelled:
            raise Cut
        if time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            tell(done, total)

    return progress
