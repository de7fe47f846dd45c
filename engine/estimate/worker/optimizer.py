"""Optimizers for counting memory, without their kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.config.training import TrainingTable
from engine.training.optimizers import build_optimizer

EIGHT_BIT = {
    "adamw8bit": 2, "pagedadamw8bit": 0, "adam8bit": 2, "lion8bit": 1, "pagedlion8bit": 0, "sgdnesterov8bit": 1,
    "pagedadamw": 0, "pagedadamw32bit": 0,
}  # fmt: skip
"""bitsandbytes' optimizers by the number of 8-bit states per value on the card; paged ones are on the host. Their
kernels need addresses, which fake tensors do not have."""
_LEAST = 4096
"""Smallest number of values with 8-bit states; smaller tensors have float32 states."""
_BLOCK = 256
"""Values per float32 scale."""


def optimizer_for_counting(training: TrainingTable, groups: list[dict[str, Any]]) -> Any:
    """The run's optimizer, ready for a step; for those of bitsandbytes a stand-in that only allocates the states.

    Raises:
        UsageError: see `build_optimizer`.
    """
    states = EIGHT_BIT.get(training.optimizer_type.lower())
    if states is not None:
        return _EightBit(groups, states)
    built = build_optimizer(training.optimizer_type, training.optimizer_args, groups)
    if built.schedule_free:
        built.optimizer.train()  # type: ignore[attr-defined]
    return built.optimizer


class _EightBit(torch.optim.Optimizer):
    """Allocates the states at its first step, and changes no weights."""

    def __init__(self, groups: list[dict[str, Any]], states: int) -> None:
        super().__init__(groups, {})
        self._states = states

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Allocate the states."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if not self.state[parameter]:
                    self.state[parameter]["states"] = [self._new_state(parameter) for _ in range(self._states)]

    def _new_state(self, parameter: Tensor) -> tuple[Tensor, ...]:
        count = parameter.numel()
        if count < _LEAST:
            return (torch.zeros(count, device=parameter.device),)
        scales = torch.zeros(-(-count // _BLOCK), device=parameter.device)
        return torch.zeros(count, dtype=torch.uint8, device=parameter.device), scales
