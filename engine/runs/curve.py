"""A curve of any length in bounded memory: neighbouring steps share a bin that keeps its lowest, highest and last."""

from __future__ import annotations

from dataclasses import dataclass

BINS = 2048


@dataclass(slots=True)
class Bin:
    """The values of some neighbouring steps."""

    step: int
    """The last step in it."""
    low: float
    high: float
    last: float

    def join(self, later: Bin) -> Bin:
        """This bin merged with the next one."""
        return Bin(later.step, min(self.low, later.low), max(self.high, later.high), later.last)


class Curve:
    """A value by step. When all bins are used, each two are merged.

    A step that is not after the last one replaces the values from there on: the run was resumed from a state, or went
    back to one.
    """

    def __init__(self, limit: int = BINS) -> None:
        self._limit = limit
        self._width = 1
        self._bins: list[Bin] = []

    def __len__(self) -> int:
        return len(self._bins)

    @property
    def last(self) -> Bin | None:
        """The newest bin."""
        return self._bins[-1] if self._bins else None

    def add(self, step: int, value: float) -> None:
        """Add the value of a step."""
        bins = self._bins
        if bins and step <= bins[-1].step:
            self._cut(step)
        if bins and bins[-1].step // self._width == step // self._width:
            newest = bins[-1]
            newest.step, newest.last = step, value
            newest.low, newest.high = min(newest.low, value), max(newest.high, value)
            return
        bins.append(Bin(step, value, value, value))
        if len(bins) > self._limit:
            self._halve()

    def _cut(self, step: int) -> None:
        while self._bins and self._bins[-1].step >= step:
            self._bins.pop()

    def _halve(self) -> None:
        self._width *= 2
        self._bins = _joined(self._bins, self._width)

    def points(self, width: int) -> list[Bin]:
        """The curve with `width` steps per bin, or with its own bins if these are wider."""
        if width <= self._width:
            return list(self._bins)
        return _joined(self._bins, width)


def _joined(bins: list[Bin], width: int) -> list[Bin]:
    joined: list[Bin] = []
    for item in bins:
        if joined and joined[-1].step // width == item.step // width:
            joined[-1] = joined[-1].join(item)
        else:
            joined.append(item)
    return joined
