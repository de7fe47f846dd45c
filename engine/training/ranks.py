"""Communication between the ranks of one run: losses and gradients are averaged, rank 0 makes the decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list


class Ranks:
    """All ranks of one run, through accelerate; with one process nothing is exchanged."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.size = accelerator.num_processes

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean over all ranks; not finite if it is not on one of them."""
        return self.accelerator.reduce(value, "mean") if self.size > 1 else value

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replace every gradient by the mean over all ranks, in place, in one message."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.accelerator.reduce(torch.cat([gradient.reshape(-1) for gradient in gradients]), "mean")
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    @torch.no_grad()
    def copy_from_first(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace the values of these tensors by those of rank 0."""
        if self.size == 1:
            return
        for tensor in tensors:
            tensor.copy_(broadcast(tensor.detach().contiguous(), from_process=0))

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        return broadcast_object_list([value])[0]
