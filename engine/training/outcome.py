"""What an update came to. On a GPU its numbers are read when the host needs them, so that it need not wait for them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


class Readout:
    """Numbers on their way to the host.

    Args:
        values: [n] float32. They are copied at this point of the device's work, not at that of the reading.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._copied: Any = None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.current_stream(values.device).record_event()

    @cached_property
    def numbers(self) -> list[float]:
        """Waits until the device has computed them."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()


@dataclass
class Outcome:
    """One update."""

    step: int
    """The number of updates before it."""
    readout: Readout
    """Its mean loss, and the norm of its gradients before clipping."""
    rates: dict[str, float]
    """Learning rate of each group."""
    factors: dict[str, float]
    """The part of it that the optimizer found, where it finds one."""
    started: float
    """By the clock of `time.perf_counter`, in seconds."""
    norms: dict[str, float] = field(default_factory=dict)
    """With `scale_weight_norms`: the norms of the modules after it (`StepEvent.norms`)."""

    @property
    def loss(self) -> float:
        """Waits for it."""
        return self.readout.numbers[0]

    @property
    def grad_norm(self) -> float:
        """Waits for it."""
        return self.readout.numbers[1]

    @property
    def is_finite(self) -> bool:
        """Whether the update was made: one with a loss or gradients that are not finite is skipped."""
        return all(map(math.isfinite, self.readout.numbers))
