"""A thread pool with a bounded queue: results in order, memory independent of the number of items."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def workers(limit: int) -> int:
    """Number of threads for work that waits for the disk or runs in C: at most `limit`."""
    return max(1, min(limit, 2 * (os.cpu_count() or 1)))


def ordered_map(function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int) -> Generator[R]:
    """`map` in `threads` threads with at most `ahead` pending results; exceptions are raised in order."""
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
