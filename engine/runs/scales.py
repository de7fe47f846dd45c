"""Axes of a chart: their ends, and the round numbers of their labels. For any viewer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.runs.curve import Bin

_ENDS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
_TICKS = (1, 2, 5, 10)


@dataclass(frozen=True)
class Scale:
    """The ends of an axis and the distance of its labels."""

    low: float
    high: float
    tick: float

    def share(self, value: float) -> float:
        """Where `value` is between the ends: 0 is the lower one, 1 the upper one; values outside are clipped."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def at(self, value: float, dots: int) -> int:
        """The dot of `value` among `dots`."""
        return min(dots - 1, max(0, round(self.share(value) * (dots - 1))))

    def ticks(self) -> list[float]:
        """The values of the labels."""
        first = math.ceil(self.low / self.tick - 1e-9)
        return [k * self.tick for k in range(first, math.floor(self.high / self.tick + 1e-9) + 1)]


TICKS = 4
"""Labels of an upright axis, about; fewer would leave more of the axis empty."""


def value_scale(values: Iterable[float]) -> Scale:
    """An axis that holds all `values` (at least one)."""
    kept = list(values)
    low, high = min(kept), max(kept)
    if high - low < 1e-9 + 1e-3 * abs(high):
        low, high = low - 0.05 * abs(low) - 1e-6, high + 0.05 * abs(high) + 1e-6
    tick = nice((high - low) / TICKS)
    return Scale(math.floor(low / tick + 1e-9) * tick, math.ceil(high / tick - 1e-9) * tick, tick)


def loss_scale(raw: Sequence[Bin], smooth: Sequence[Bin], marks: Iterable[float]) -> Scale:
    """An axis that holds the smoothed and the validation losses, and the raw ones except rare peaks."""
    highs, lows = sorted(item.high for item in raw), sorted(item.low for item in raw)
    spare = len(highs) // 20
    values = [item.last for item in smooth] + list(marks)
    if raw:
        values += [lows[spare], highs[len(highs) - 1 - spare]]
    return value_scale(values)


def step_scale(newest: int, total: int | None, columns: int) -> Scale:
    """An axis from step 0 that grows in steps, so that it seldom moves, and ends with the run."""
    end = nice(max(10, newest), _ENDS)
    if total is not None and newest <= total:
        end = min(end, total)
    end = max(end, 1)
    return Scale(0, end, max(1, nice(end / max(1, min(5, columns // 14)))))


def nice(value: float, steps: Sequence[float] = _TICKS) -> float:
    """The next round number above or at `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in steps if step * power >= value * (1 - 1e-9))


def tick_text(value: float, tick: float) -> str:
    """A label with enough decimals to distinguish it from its neighbours."""
    decimals = max(0, 1 - math.floor(math.log10(tick) + 1e-9))
    text = f"{value:.{min(decimals, 4)}f}"
    return text if len(text) <= 6 else f"{value:.1e}"


def step_text(tick: float) -> str:
    """A label of an axis of steps."""
    return f"{tick:g}" if tick < 1e6 else f"{tick:.2g}"
