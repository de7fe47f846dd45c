"""Optimizers whose states can be counted without their kernels."""

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
"""bitsandbytes' optimizers by the number of 8-bit states a value has on the card; paged ones are on the host and come
in pages. Their kernels take addresses, which fake tensors have not got."""
_LEAST = 4096
"""Values that a tensor must have to get 8-bit states; smaller ones have them in float32."""
_BLOCK = 256
"""Values that share a float32 scale."""


def planned_optimizer(training: TrainingTable, groups: list[dict[str, Any]]) -> Any:
    """The optimizer as the run has it; for bitsandbytes' one that only takes the memory.

    Raises:
        UsageError: see `build_optimizer`.
    """
    states = EIGHT_BIT.get(training.optimizer_type.lower())
    if states is not None:
        return _EightBit(groups, states)
    return build_optimizer(training.optimizer_type, training.optimizer_args, groups).optimizer


class _EightBit(torch.optim.Optimizer):
    """Takes the states' memory with its first step, and changes nothing."""

    def __init__(self, groups: list[dict[str, Any]], states: int) -> None:
        super().__init__(groups, {})
        self._states = states

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take the memory."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if not self.state[parameter]:
                    self.state[parameter]["states"] = [self._one(parameter) for _ in range(self._states)]

    def _one(self, parameter: Tensor) -> tuple[Tensor, ...]:
        count = parameter.numel()
        if count < _LEAST:
            return (torch.zeros(count, device=parameter.device),)
        scales = torch.zeros(-(-count // _BLOCK), device=parameter.device)
        return torch.zeros(count, dtype=torch.uint8, device=parameter.device), scales
