"""Frozen layers whose weight is fetched at the moment of its use: dequantised, from the host's memory, or both.

Autograd keeps a layer's weight for the backward pass, and with it whatever memory it stands in. These layers keep
only themselves and fetch the weight a second time. A frozen weight gets no gradient, so nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_input


class Seat(Protocol):
    """Where the tensors of one layer are while split mode has them."""

    def fetch(self, name: str) -> Tensor:
        """The layer's tensor `name` on the device, good until another layer's tensors are fetched."""


class Frozen(nn.Module):
    """What frozen layers share. Layers become frozen ones in place, by their class."""

    weight: Tensor
    seat: Seat | None = None
    """None: the weight is where the rest of the model is."""
    held: tuple[str, ...] = ("weight",)
    """Names of the tensors that the weight is made of."""

    def stored(self, name: str) -> Tensor:
        """One of the `held` tensors, on the device."""
        return getattr(self, name) if self.seat is None else self.seat.fetch(name)

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The weight in `dtype` on the device; to be used at once and not kept."""
        return self.stored("weight").to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """`to` and its relatives leave alone what split mode keeps in the host's memory."""
        if self.seat is None:
            return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]
        tables: tuple[dict[str, Any], ...] = (self._parameters, self._buffers)
        kept = [(table, name, table[name]) for table in tables for name in self.held if name in table]
        for table, name, _ in kept:
            table[name] = None
        try:
            return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]
        finally:
            for table, name, tensor in kept:
                table[name] = tensor


class FrozenLinear(Frozen, nn.Linear):
    """[..., in] to [..., out], in autocast's type where it is on."""

    def forward(self, input: Tensor) -> Tensor:
        return _Linear.apply(_as_computed(input), self)  # type: ignore[no-any-return, no-untyped-call]


class FrozenConv2d(Frozen, nn.Conv2d):
    """[B, in, h, w] to [B, out, h', w'], in autocast's type where it is on; the padding is zeros."""

    def forward(self, input: Tensor) -> Tensor:
        if self.weight.requires_grad:  # peft makes the halves of a LoRA of the base layer's class
            return super().forward(input)
        return _Conv2d.apply(_as_computed(input), self)  # type: ignore[no-any-return, no-untyped-call]


def weight_of(layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] of any linear layer, in `dtype` where it is a frozen one; not to be kept."""
    return layer.matrix(dtype) if isinstance(layer, Frozen) else layer.weight


def _as_computed(x: Tensor) -> Tensor:
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class _Linear(torch.autograd.Function):
    """x · Wᵀ + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.matrix(x.dtype), layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.matrix(gradient.dtype), None


class _Conv2d(torch.autograd.Function):
    """W * x + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenConv2d) -> Tensor:
        ctx.layer, ctx.size = layer, x.shape
        output: Tensor = layer._conv_forward(x, layer.matrix(x.dtype), layer.bias)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layer = ctx.layer
        shape = (layer.stride, layer.padding, layer.dilation, layer.groups)
        return conv2d_input(ctx.size, layer.matrix(gradient.dtype), gradient, *shape), None  # type: ignore[no-untyped-call]
