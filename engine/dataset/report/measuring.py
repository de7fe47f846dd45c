"""Taking the measures of many pictures: from the shelf where they are there, else in processes, with a bound on
memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

from engine.dataset.pictures import Picture
from engine.dataset.report.measures import Taken, measure
from engine.dataset.report.shelf import Key, Shelf
from engine.processes import end_with_parent, parent_word

_FEW = 40
"""Pictures for which starting processes takes longer than it saves."""
_LARGE_PIXELS = 32_000_000
"""Larger pictures are decoded one after the other, so that memory has a bound."""
_CRASHED = "broken: its decoder crashed, or ran out of memory"


@dataclass(frozen=True, slots=True)
class Job:
    """One picture, and how it is measured."""

    picture: Picture
    side: int
    background: str
    max_megapixels: int

    @property
    def key(self) -> Key:
        """Its place on the shelf."""
        return Key.of(self.picture.path, f"{self.side} {self.background}{'' if self._turn else ' as it lies'}")

    @property
    def _turn(self) -> bool:
        return not self.picture.kohya_exact

    @property
    def large(self) -> bool:
        """Whether it must be decoded alone."""
        return self.picture.width * self.picture.height > _LARGE_PIXELS

    def done(self) -> Taken:
        """Measure it, here."""
        return measure(self.picture.path, self.side, self.background, self.max_megapixels, turn=self._turn)


def take_all(jobs: Iterable[Job], shelf: Shelf, told: Callable[[], None]) -> Iterator[tuple[Job, Key, Taken]]:
    """Measure pictures, in whatever order they come; what is new is kept on the shelf.

    Args:
        told: called after each picture; an exception of it ends the work, and what was done stays on the shelf.
    """
    waiting: list[tuple[Job, Key]] = []
    for job in jobs:
        key = job.key
        known = shelf.find(key)
        if known is None:
            waiting.append((job, key))
        else:
            told()
            yield job, key, known
    try:
        for index, taken in _measured([job for job, _ in waiting]):
            job, key = waiting[index]
            if taken.reason != _CRASHED:
                shelf.keep(key, taken)
            told()
            yield job, key, taken
    finally:
        shelf.save()


def _measured(jobs: list[Job]) -> Iterator[tuple[int, Taken]]:
    """(place in `jobs`, what was taken)."""
    if len(jobs) < _FEW:
        for index, job in enumerate(jobs):
            yield index, job.done()
        return
    count = max(1, min(os.cpu_count() or 1, 8))
    usual = [index for index, job in enumerate(jobs) if not job.large]
    yield from _in_processes(jobs, usual, count)
    yield from _in_processes(jobs, [index for index, job in enumerate(jobs) if job.large], 1)


def _in_processes(jobs: list[Job], places: list[int], count: int) -> Iterator[tuple[int, Taken]]:
    """The jobs at `places` in so many processes. When a picture kills its process, those that were in work are done
    again one by one, to find out which it was."""
    left = iter(places)
    while True:
        lost: list[int] = []
        yield from _until_crash(jobs, left, count, 4 * count, lost)
        if not lost:
            return
        again = iter(lost)
        while True:
            guilty: list[int] = []
            yield from _until_crash(jobs, again, 1, 1, guilty)
            if not guilty:
                break
            yield guilty[0], Taken(None, reason=_CRASHED)


def _until_crash(
    jobs: list[Job], places: Iterator[int], count: int, ahead: int, lost: list[int]
) -> Iterator[tuple[int, Taken]]:
    """The same until a process dies; then the places of the at most `ahead` jobs in work are put into `lost`."""
    pending: dict[Future[Taken], int] = {}
    pool: ProcessPoolExecutor | None = None
    try:
        while True:
            while len(pending) < ahead and (place := next(places, None)) is not None:
                pool = pool or _pool(count)
                pending[pool.submit(jobs[place].done)] = place
            if not pending:
                return
            for future in wait(pending, return_when="FIRST_COMPLETED").done:
                place = pending[future]
                taken = future.result()
                del pending[future]
                yield place, taken
    except BrokenProcessPool:
        lost += sorted(pending.values())
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _pool(count: int) -> ProcessPoolExecutor:
    # A process of the pool must not outlive the report, however that ends.
    return ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=end_with_parent, initargs=(parent_word(),)
    )
