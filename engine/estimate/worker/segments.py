"""Estimates what torch's CUDA allocator takes from the driver for a series of allocations.

Runs have PYTORCH_ALLOC_CONF=expandable_segments:True (`engine.runs.launch`): one growing range of addresses for
allocations up to 1 MiB and one for larger ones, each allocation in the smallest gap that holds it. Pages of 2 MiB
and of 20 MiB are taken from the driver as the ranges grow, and kept (c10/cuda/CUDACachingAllocator.cpp). Not simulated:
pages inside a range that are returned, and separate ranges of streams.
"""

from __future__ import annotations

from bisect import bisect_left, insort

BLOCK = 512
"""Bytes: sizes are multiples of it."""
SMALL = 2**20
PAGES = {True: 2 * 2**20, False: 20 * 2**20}


def rounded(size: int) -> int:
    """Bytes that the allocator counts for `size` bytes."""
    return max(BLOCK, -(-size // BLOCK) * BLOCK)


class Segments:
    """The two ranges."""

    def __init__(self) -> None:
        self._ranges = {small: _Range(page) for small, page in PAGES.items()}
        self._small: dict[int, bool] = {}

    @property
    def reserved(self) -> int:
        """Bytes taken from the driver so far."""
        return sum(each.reserved for each in self._ranges.values())

    def allocate(self, key: int, size: int) -> None:
        """Allocate `size` bytes, a multiple of `BLOCK`."""
        self._small[key] = size <= SMALL
        self._ranges[size <= SMALL].allocate(key, size)

    def free(self, key: int) -> None:
        """Free an allocation."""
        self._ranges[self._small.pop(key)].free(key)

    def trim(self) -> None:
        """Return the free end of each range to the driver."""
        for each in self._ranges.values():
            each.trim()


class _Range:
    def __init__(self, page: int) -> None:
        self._page = page
        self._end = 0
        self._pages_end = 0
        self._used: dict[int, tuple[int, int]] = {}
        self._gaps: list[tuple[int, int]] = []
        """(size, start), sorted."""
        self._starts: dict[int, int] = {}
        """Start of a gap to its size."""
        self._ends: dict[int, int] = {}
        """End of a gap to its start."""

    @property
    def reserved(self) -> int:
        return self._pages_end

    def allocate(self, key: int, size: int) -> None:
        index = bisect_left(self._gaps, (size, -1))
        if index < len(self._gaps):
            gap_size, start = self._gaps[index]
            self._drop(start, gap_size)
            if gap_size > size:
                self._add(start + size, gap_size - size)
        else:
            start = self._ends.get(self._end, self._end)
            if start < self._end:  # the last gap is too small: the range grows behind it
                self._drop(start, self._end - start)
            self._end = start + size
            self._pages_end = max(self._pages_end, -(-self._end // self._page) * self._page)
        self._used[key] = (start, size)

    def free(self, key: int) -> None:
        start, size = self._used.pop(key)
        before = self._ends.get(start)
        if before is not None:
            self._drop(before, start - before)
            start, size = before, size + start - before
        after = self._starts.get(start + size)
        if after is not None:
            self._drop(start + size, after)
            size += after
        self._add(start, size)

    def trim(self) -> None:
        start = self._ends.get(self._end)
        if start is not None:
            self._drop(start, self._end - start)
            self._end = start
        self._pages_end = -(-self._end // self._page) * self._page

    def _add(self, start: int, size: int) -> None:
        insort(self._gaps, (size, start))
        self._starts[start], self._ends[start + size] = size, start

    def _drop(self, start: int, size: int) -> None:
        del self._gaps[bisect_left(self._gaps, (size, start))]
        del self._starts[start], self._ends[start + size]
