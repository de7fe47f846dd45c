"""The weights as a file has them: for saving, samples and measures."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.training.session import Session
from engine.training.train_state import TrainState


class Evaluation:
    """Switches the weights to inference for a phase, and counts the time of each phase."""

    def __init__(self, session: Session, state: TrainState) -> None:
        self._session, self._state = session, state
        self._seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Dropouts off, schedule-free weights averaged; afterwards all weights are restored exactly."""
        state, started = self._state, time.perf_counter()
        original = [parameter.detach().clone() for parameter in state.parameters] if state.built.schedule_free else []
        state.train(False)
        try:
            with self._session.phase(name), torch.no_grad():
                yield
        finally:
            state.train(True)
            with torch.no_grad():
                for parameter, value in zip(state.parameters, original, strict=bool(original)):
                    parameter.copy_(value)
            self._seconds[name].append(time.perf_counter() - started)

    def total_seconds(self, name: str | None = None) -> float:
        """Seconds that all phases of this name took; without one, all phases."""
        return sum(sum(seconds) for phase, seconds in self._seconds.items() if name in (None, phase))

    def usual_seconds(self, name: str) -> float:
        """The median of their seconds; 0 before the first one."""
        seconds = self._seconds[name]
        return statistics.median(seconds) if seconds else 0.0
