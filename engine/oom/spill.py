"""Detects slow steps caused by a driver that moves a full card's memory to the host (WDDM: Windows, WSL). Loads no
torch.

Such a driver raises no out-of-memory: it spills into shared memory, and a step takes many times as long.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable

SLOWER = 3.0
"""Times the usual duration."""
IN_A_ROW = 3
FULL = 0.03
"""Share of the card that is free at most when it counts as full."""
MIN_STEPS = 5
"""Steps needed for the usual duration."""


class SpillWatch:
    """Watches the duration of each step.

    Args:
        free: gives (free, total) bytes of the card; only called when steps are slow.
    """

    def __init__(self, free: Callable[[], tuple[int, int]]) -> None:
        self._free = free
        self._usual: deque[float] = deque(maxlen=50)
        self._slow = 0

    def slow_step_warning(self, seconds: float) -> str | None:
        """A warning if this step and those before it were slow on a full card; None otherwise."""
        usual = statistics.median(self._usual) if len(self._usual) >= MIN_STEPS else None
        if usual is None or seconds < SLOWER * usual:
            self._usual.append(seconds)
            self._slow = 0
            return None
        self._slow += 1
        if self._slow < IN_A_ROW:
            return None
        free, total = self._free()
        if free > FULL * total:
            return None
        return (
            f"Steps take {seconds:.1f} s instead of {usual:.1f} s while the card is full: its driver keeps part of "
            "the training in the machine's memory. Close other programs, or stop and resume with less "
            "(memory.gradient_checkpointing, a smaller batch)."
        )
