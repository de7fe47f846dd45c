"""What an adapter adds to the output of a layer, without keeping what it is computed from for the backward pass.

Autograd would keep ΔW of each layer, in float32: together they are as large as the model, or larger where that is in
half precision or quantised. Here only the layer's input is kept, and ΔW, or its factors, are computed a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

from engine.adapters.weights import apply_weight


class Change(Protocol):
    """The change of one layer's weight, as a function of the trained tensors."""

    base_layer: nn.Module
    is_factored: bool
    """Whether `product` is used, not `delta`."""

    def delta(self, trained: Sequence[Tensor]) -> Tensor:
        """ΔW in the shape of the layer's weight, float32."""

    def product(self, trained: Sequence[Tensor], x: Tensor) -> Tensor:
        """The layer's output with ΔW instead of its weight, and without a bias, from factors of ΔW, in x's dtype."""


def added(change: Change, x: Tensor, trained: Sequence[Tensor]) -> Tensor:
    """The layer's output with ΔW instead of its weight, and without a bias.

    Not compiled: the formulas read single numbers.

    Args:
        x: the layer's input; the result has its dtype.
        trained: what gets gradients.
    """
    result: Tensor = _apply(change, x, *trained)
    return result


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _apply(change: Change, x: Tensor, *trained: Tensor) -> Tensor:
    result: Tensor = _Added.apply(x, change, *trained)  # type: ignore[no-untyped-call]
    return result


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Change, *trained: Tensor) -> Tensor:
        ctx.save_for_backward(x, *trained)
        ctx.change = change
        with torch.autocast(x.device.type, enabled=False):
            if change.is_factored:
                return change.product(trained, x)
            return apply_weight(change.base_layer, x, change.delta(trained).to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *kept = ctx.saved_tensors
        change, needs_x = ctx.change, ctx.needs_input_grad[0]
        trained = [tensor.detach().requires_grad_() for tensor in kept]
        with torch.autocast(x.device.type, enabled=False), torch.enable_grad():
            if change.is_factored:
                x = x.detach().requires_grad_(needs_x)
                product = change.product(trained, x)
                of = [x, *trained] if needs_x else trained
                to_x, *others = torch.autograd.grad(product, of, gradient, allow_unused=True)
                return (to_x, None, *others) if needs_x else (None, None, to_x, *others)
            delta = change.delta(trained)
            to_delta = _weight_gradient(change.base_layer, x, gradient, delta.shape).to(delta.dtype)
            to_trained = torch.autograd.grad(delta, trained, to_delta, allow_unused=True)
            if not needs_x:
                return (None, None, *to_trained)
            weight = delta.detach().to(gradient.dtype)
            return (_input_gradient(change.base_layer, x, gradient, weight), None, *to_trained)


def _weight_gradient(layer: nn.Module, x: Tensor, gradient: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of a weight by which the layer made an output of `x`."""
    if isinstance(layer, nn.Linear):
        return gradient.reshape(-1, gradient.shape[-1]).T @ x.reshape(-1, x.shape[-1])
    return conv2d_weight(x, shape, gradient, *_geometry(layer))  # type: ignore[no-untyped-call, no-any-return]


def _input_gradient(layer: nn.Module, x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return gradient @ weight
    return conv2d_input(x.shape, weight, gradient, *_geometry(layer))  # type: ignore[no-untyped-call, no-any-return]


def _geometry(layer: nn.Module) -> tuple[Any, ...]:
    assert isinstance(layer, nn.Conv2d)
    return layer.stride, layer.padding, layer.dilation, layer.groups
