"""What a run took of its card, phase by phase, and how far that is from its plan. On the CPU nothing is measured."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.errors import LoraSmithError
from engine.hardware import Gpu
from engine.memory.plan import Plan, gib
from engine.memory.planner import plan

if TYPE_CHECKING:
    import torch

    from engine.training.prepare import Prepared
    from engine.training.session import Session

PATIENCE = 60.0
"""Seconds that the end of a run waits for its plan."""


class PhasePeaks:
    """The most that tensors took in each phase. A phase inside another one is counted by itself.

    Args:
        peak: bytes at the most since `reset` was called.
    """

    def __init__(self, peak: Callable[[], int], reset: Callable[[], None]) -> None:
        self._peak, self._reset = peak, reset
        self.bytes: dict[str, int] = {}

    @classmethod
    def of(cls, device: torch.device) -> PhasePeaks:
        """By torch's allocator on a GPU."""
        from torch import cuda

        return cls(lambda: cuda.max_memory_allocated(device), lambda: cuda.reset_peak_memory_stats(device))

    def turn(self, before: str, after: str) -> None:
        """One phase is left, another one entered; "" is none."""
        if before:
            self.bytes[before] = max(self.bytes.get(before, 0), self._peak())
        self._reset()

    def highest(self) -> int:
        """Of all phases until now."""
        return max([self._peak(), *self.bytes.values()])


class PlanCheck:
    """Makes the run's plan beside the training, and compares it at the end with what was measured."""

    def __init__(self, session: Session, peaks: PhasePeaks, make: Callable[[], Plan]) -> None:
        self._session, self._peaks, self._make = session, peaks, make
        self._plan: Plan | None = None
        self._problem = ""
        self._thread = threading.Thread(target=self._work, name="plan", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, session: Session, prepared: Prepared) -> PlanCheck | None:
        """For a run on a GPU whose phases are measured."""
        if session.peaks is None:
            return None
        from torch import cuda

        index = prepared.accelerator.device.index or 0
        gpu = Gpu(index, cuda.get_device_name(index), compute_capability=cuda.get_device_capability(index))
        config, recognition, steps = prepared.config, prepared.recognition, prepared.plan
        return cls(session, session.peaks, lambda: plan(config, recognition, steps, gpu))

    def _work(self) -> None:
        try:
            self._plan = self._make()
        except LoraSmithError as error:
            self._problem = str(error)

    def tell(self) -> None:
        """The event `memory_plan`."""
        self._thread.join(PATIENCE)
        if self._plan is None:
            self._session.say(f"The memory plan is not there to compare with. {self._problem}".strip())
            return
        facts: dict[str, Any] = {"planned": {}, "measured": {}, "difference": {}}
        for need in self._plan.needs:
            measured = self._peaks.bytes.get(need.phase)
            if measured:
                facts["planned"][need.phase] = gib(need.allocated)
                facts["measured"][need.phase] = gib(measured)
                facts["difference"][need.phase] = round(need.allocated / measured - 1, 4)
        self._session.events.emit("memory_plan", step=self._session.step, **facts)
        parts = [f"{phase} {share:+.1%}" for phase, share in facts["difference"].items()]
        self._session.say(f"Memory, planned against measured: {', '.join(parts) or 'nothing was measured'}.")
