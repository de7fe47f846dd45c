"""The two matrices of a LoRA that begins with a part of the base's weight: see `engine.adapters.doubled`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class DoubledHalf(nn.Module):
    """One of a layer's two matrices: `weight` is the trained difference, `start` the constant part of the base."""

    weight: Any
    start: nn.Parameter
    file_dtype: torch.dtype | None = None
    """Set: the matrix counts as it is in a file of this number format."""
    is_down = True
    is_loaded = False
    """Of the first layer's down: whether the values are those of a file."""

    @property
    def matrix(self) -> Tensor:
        """[A; dA], [2r, in(, k, k)], or [dB, B₀], [out, 2r(, 1, 1)]; float32, with the gradient of the difference."""
        if self.is_down:
            full = torch.cat((self.start + self.weight, self.weight))
        else:
            full = torch.cat((self.weight, self.start), dim=1)
        return full if self.file_dtype is None else full.to(self.file_dtype).float()


class DoubledLinear(DoubledHalf, nn.Linear):
    """The matrix of a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """The input times `matrix`."""
        return functional.linear(x, self.matrix)


class DoubledConv2d(DoubledHalf, nn.Conv2d):
    """The matrix of a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """The input convolved with `matrix`."""
        result: Tensor = self._conv_forward(x, self.matrix, None)
        return result


def matrix_of(half: Any) -> Tensor:
    """The matrix that a layer computes with, of a usual LoRA or of a doubled one."""
    matrix: Tensor = half.matrix if isinstance(half, DoubledHalf) else half.weight
    return matrix


def double(layer: Any, adapter: str) -> None:
    """Convert the two matrices of peft's layer to doubled ones, in place; their values are set later."""
    for halves, is_down in ((layer.lora_A, True), (layer.lora_B, False)):
        half = halves[adapter]
        half.__class__ = DoubledConv2d if isinstance(half, nn.Conv2d) else DoubledLinear
        half.is_down = is_down
        half.start = nn.Parameter(half.weight.detach(), requires_grad=False)
