"""Measuring many images: from the cache if possible, else in processes, with bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

from engine.dataset.images import ImageInfo
from engine.dataset.report.measure import measure
from engine.dataset.report.measure_cache import Key, MeasureCache
from engine.dataset.report.measures import MeasureResult
from engine.errors import LoraSmithError
from engine.processes import end_with_parent, parent_token

_FEW = 40
"""For fewer images, starting processes takes longer than it saves."""
_LARGE_PIXELS = 32_000_000
"""Larger images are decoded one at a time, to bound memory."""
_CRASHED = "broken: its decoder crashed, or ran out of memory"


@dataclass(frozen=True, slots=True)
class Job:
    """One image and how to measure it."""

    image: ImageInfo
    side: int
    background: str
    max_megapixels: int

    @property
    def key(self) -> Key:
        """Its key in the cache."""
        return Key.of(self.image.path, f"{self.side} {self.background}{'' if self._turn else ' as it lies'}")

    @property
    def _turn(self) -> bool:
        return not self.image.kohya_exact

    @property
    def large(self) -> bool:
        """Whether it must be decoded on its own."""
        return self.image.width * self.image.height > _LARGE_PIXELS

    def run(self) -> MeasureResult:
        """Measure it in this process."""
        return measure(self.image.path, self.side, self.background, self.max_megapixels, turn=self._turn)


def measure_all(
    jobs: Iterable[Job], cache: MeasureCache, on_done: Callable[[], None]
) -> Iterator[tuple[Job, Key, MeasureResult]]:
    """Measure images, yielding results in any order; new results are cached.

    Args:
        on_done: called after each image; its exception ends the work, finished results stay in the cache.

    Raises:
        LoraSmithError: no process can be started.
    """
    waiting: list[tuple[Job, Key]] = []
    for job in jobs:
        key = job.key
        cached = cache.find(key)
        if cached is None:
            waiting.append((job, key))
        else:
            on_done()
            yield job, key, cached
    try:
        for index, result in _measured([job for job, _ in waiting]):
            job, key = waiting[index]
            if result.reason != _CRASHED:
                cache.add(key, result)
            on_done()
            yield job, key, result
    finally:
        cache.save()


def _measured(jobs: list[Job]) -> Iterator[tuple[int, MeasureResult]]:
    """Yield (index in `jobs`, result)."""
    if len(jobs) < _FEW:
        for index, job in enumerate(jobs):
            yield index, job.run()
        return
    count = max(1, min(os.cpu_count() or 1, 8))
    usual = [index for index, job in enumerate(jobs) if not job.large]
    yield from _in_processes(jobs, usual, count)
    yield from _in_processes(jobs, [index for index, job in enumerate(jobs) if job.large], 1)


def _in_processes(jobs: list[Job], places: list[int], count: int) -> Iterator[tuple[int, MeasureResult]]:
    """Run the jobs at `places` in `count` processes. When a process dies, the running jobs are repeated one by one, to
    find the image that crashed it."""
    left = iter(places)
    while True:
        lost: list[int] = []
        yield from _until_crash(jobs, left, count, 4 * count, lost)
        if not lost:
            return
        _require_processes()
        retries = iter(lost)
        while True:
            crashed: list[int] = []
            yield from _until_crash(jobs, retries, 1, 1, crashed)
            if not crashed:
                break
            yield crashed[0], MeasureResult(None, reason=_CRASHED)


def _until_crash(
    jobs: list[Job], places: Iterator[int], count: int, ahead: int, lost: list[int]
) -> Iterator[tuple[int, MeasureResult]]:
    """Run jobs until a process dies; then append the places of the running jobs (at most `ahead`) to `lost`."""
    pending: dict[Future[MeasureResult], int] = {}
    pool: ProcessPoolExecutor | None = None
    try:
        while True:
            while len(pending) < ahead and (place := next(places, None)) is not None:
                pool = pool or _pool(count)
                pending[pool.submit(jobs[place].run)] = place
            if not pending:
                return
            for future in wait(pending, return_when="FIRST_COMPLETED").done:
                place = pending[future]
                result = future.result()
                del pending[future]
                yield place, result
    except BrokenProcessPool:
        lost += sorted(pending.values())
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _require_processes() -> None:
    """Raise if a process ends before it measures anything, so that no image is blamed for it.

    Raises:
        LoraSmithError: it does.
    """
    with _pool(1) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool as error:
            raise LoraSmithError(
                "The processes that look at the images end as soon as they start.",
                "See whether processes or memory are limited (ulimit -a). A program that calls the check has to do so "
                "under \"if __name__ == '__main__':\".",
                code="no-measuring-process",
            ) from error


def _pool(count: int) -> ProcessPoolExecutor:
    # Pool processes must end with the report process, however that ends.
    return ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=end_with_parent, initargs=(parent_token(),)
    )
