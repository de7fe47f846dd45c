"""Frozen layers whose weight is fetched at each use: dequantised, from the host's memory, or both.

Autograd keeps a layer's weight, and its memory, for the backward pass. These layers keep only a reference to themselves
and fetch the weight a second time. A frozen weight gets no gradient, so nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_input


class OffloadedWeights(Protocol):
    """The tensors of one layer that split mode keeps in the host's memory."""

    def fetch(self, name: str) -> Tensor:
        """The layer's tensor `name` on the device, valid until another layer's tensors are fetched."""


class FrozenLayer(nn.Module):
    """Base of the frozen layers. A layer is converted in place, by changing its class."""

    weight: Tensor
    offloaded: OffloadedWeights | None = None
    """None: the weight is on the device of the rest of the model."""
    packed_names: tuple[str, ...] = ("weight",)
    """Names of the tensors that hold the weight."""

    def packed(self, name: str) -> Tensor:
        """One of the `packed_names` tensors, on the device."""
        return getattr(self, name) if self.offloaded is None else self.offloaded.fetch(name)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight in `dtype` on the device; use it at once and do not keep it."""
        return self.packed("weight").to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Keeps `to` and the like from moving the tensors that split mode keeps in the host's memory."""
        if self.offloaded is None:
            return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]
        tables: tuple[dict[str, Any], ...] = (self._parameters, self._buffers)
        kept = [(table, name, table[name]) for table in tables for name in self.packed_names if name in table]
        for table, name, _ in kept:
            table[name] = None
        try:
            return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]
        finally:
            for table, name, tensor in kept:
                table[name] = tensor


class FrozenLinear(FrozenLayer, nn.Linear):
    """[..., in] to [..., out], in autocast's dtype where it is on."""

    def forward(self, input: Tensor) -> Tensor:
        return _Linear.apply(_to_autocast_dtype(input), self)  # type: ignore[no-any-return, no-untyped-call]

    def product(self, x: Tensor) -> Tensor:
        """x · Wᵀ + b, [..., in] to [..., out] in the dtype of `x`, in new memory; autograd keeps nothing of it."""
        return functional.linear(x, self.dequantize(x.dtype), self.bias)

    def product_back(self, gradient: Tensor) -> Tensor:
        """gradient · W, [..., out] to [..., in] in the dtype of `gradient`, in new memory."""
        return gradient @ self.dequantize(gradient.dtype)


class FrozenConv2d(FrozenLayer, nn.Conv2d):
    """[B, in, h, w] to [B, out, h', w'], in autocast's dtype where it is on; zero padding."""

    def forward(self, input: Tensor) -> Tensor:
        if self.weight.requires_grad:  # peft builds a LoRA's two matrices with the base layer's class
            return super().forward(input)
        return _Conv2d.apply(_to_autocast_dtype(input), self)  # type: ignore[no-any-return, no-untyped-call]


def product(layer: nn.Linear, x: Tensor) -> Tensor:
    """x · Wᵀ + b of any linear layer with a frozen weight, [..., in] to [..., out], in new memory."""
    if isinstance(layer, FrozenLinear):
        return layer.product(x)
    return functional.linear(x, layer.weight, layer.bias)


def product_back(layer: nn.Linear, gradient: Tensor) -> Tensor:
    """gradient · W of any linear layer, [..., out] to [..., in], in new memory."""
    return layer.product_back(gradient) if isinstance(layer, FrozenLinear) else gradient @ layer.weight


def product_into(layer: nn.Linear, rows: Tensor, out: Tensor) -> None:
    """Write `product` of rows [n, in] into `out` [n, outputs], whose rows may be part of longer ones."""
    if isinstance(layer, FrozenLinear):
        out.copy_(layer.product(rows))
    elif layer.bias is None:
        torch.mm(rows, layer.weight.T, out=out)
    else:
        torch.addmm(layer.bias, rows, layer.weight.T, out=out)


def add_product_back(layer: nn.Linear, gradient: Tensor, total: Tensor | None) -> Tensor:
    """The sum of `total` [n, in], in its memory, and `product_back` of a gradient [n, out]."""
    if total is None:
        return product_back(layer, gradient)
    if isinstance(layer, FrozenLinear):
        return total.add_(layer.product_back(gradient))
    return total.addmm_(gradient, layer.weight)


def weight_of(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """The weight of any layer, in `dtype` for a frozen one; do not keep it."""
    return layer.dequantize(dtype) if isinstance(layer, FrozenLayer) else layer.weight  # type: ignore[return-value]


def _to_autocast_dtype(x: Tensor) -> Tensor:
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class _Linear(torch.autograd.Function):
    """x · Wᵀ + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.product_back(gradient), None


class _Conv2d(torch.autograd.Function):
    """W * x + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenConv2d) -> Tensor:
        ctx.layer, ctx.size = layer, x.shape
        output: Tensor = layer._conv_forward(x, layer.dequantize(x.dtype), layer.bias)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layer = ctx.layer
        shape = (layer.stride, layer.padding, layer.dilation, layer.groups)
        return conv2d_input(ctx.size, layer.dequantize(gradient.dtype), gradient, *shape), None  # type: ignore[no-untyped-call]
