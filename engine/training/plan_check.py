"""Compares the memory that each phase of a run took with the memory plan. GPU only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from engine.config.changes import EffectiveConfig
from engine.errors import LoraSmithError
from engine.estimate.plan import Plan, gib
from engine.estimate.planner import plan
from engine.families.resolved import resolve_run
from engine.runs.events import MemoryPlanEvent
from engine.runs.phase import Phase
from engine.training.prepare import Prepared
from engine.training.session import PhasePeaks, Session

PATIENCE = 60.0
"""Seconds to wait for the plan at the end of a run."""


class PlanCheck:
    """Makes the run's memory plan during the training, and compares it at the end with the measured peaks.

    Args:
        kept: bytes of caches that stay on the GPU from the first step on, which no plan has.
    """

    def __init__(self, session: Session, peaks: PhasePeaks, make: Callable[[], Plan], kept: int = 0) -> None:
        self._session, self._peaks, self._make, self._kept = session, peaks, make, kept
        self._plan: Plan | None = None
        self._problem = ""
        self._thread = threading.Thread(target=self._work, name="plan", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, session: Session, prepared: Prepared, config: EffectiveConfig, kept: int) -> PlanCheck | None:
        """For a run on a GPU; None elsewhere."""
        if session.peaks is None:
            return None
        from engine.models.device import torch_gpu

        gpu = torch_gpu(prepared.accelerator.device.index or 0)
        run, steps = resolve_run(config, prepared.recognition), prepared.plan
        return cls(session, session.peaks, lambda: plan(run, steps, gpu), kept)

    def _work(self) -> None:
        try:
            self._plan = self._make()
        except LoraSmithError as error:
            self._problem = str(error)

    def report(self) -> None:
        """Wait for the plan and emit the event `memory_plan`."""
        self._thread.join(PATIENCE)
        if self._plan is None:
            self._session.log(f"There is no memory plan to compare with. {self._problem}".strip())
            return
        facts: dict[str, Any] = {"planned": {}, "measured": {}, "difference": {}}
        for need in self._plan.needs:
            measured = self._peaks.bytes.get(need.phase)
            if measured:
                planned = need.allocated + (0 if need.phase in (Phase.LOAD, Phase.CACHE) else self._kept)
                facts["planned"][need.phase] = gib(planned)
                facts["measured"][need.phase] = gib(measured)
                facts["difference"][need.phase] = round(planned / measured - 1, 4)
        self._session.events.emit(MemoryPlanEvent(step=self._session.step, **facts))
        parts = [f"{phase} {share:+.1%}" for phase, share in facts["difference"].items()]
        self._session.log(f"Memory, planned against measured: {', '.join(parts) or 'nothing was measured'}.")
