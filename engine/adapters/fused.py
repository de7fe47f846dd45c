"""peft's LoRA layers with a cheaper training step: the same sum, without the intermediate tensors.

peft computes base(x) + up(down(x)) * scale in three passes over the layer's output, each into new memory, and the same
in the backward pass. Here the low-rank part is added into the base's output by the matrix product itself.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Conv2d, Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from engine.adapters.doubled_layers import matrix_of
from engine.lowmem.frozen import FrozenLayer, product, product_back


def fuse(layer: Any) -> None:
    """Convert a layer of peft's to a fused one, in place; layers of other classes are not changed."""
    if type(layer) is Linear:
        layer.__class__ = FusedLinear
    elif type(layer) is Conv2d:
        layer.__class__ = FusedConv2d


def _adapter(layer: Any, arguments: object) -> str | None:
    """The only, plain adapter; None where peft's own forward is needed: no training, a dropout."""
    if not torch.is_grad_enabled() or arguments or layer.disable_adapters or layer.merged or layer.lora_variant:
        return None
    (name, *others) = layer.active_adapters
    if others or name not in layer.lora_A or layer.lora_A[name]._forward_hooks:
        return None
    return str(name) if isinstance(layer.lora_dropout[name], torch.nn.Identity) else None


class FusedLinear(Linear):
    """A linear layer with its LoRA."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] to [..., out], in autocast's dtype where it is on."""
        name, kind = _adapter(self, args or kwargs), x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        base = self.base_layer
        needs_peft = not isinstance(base, FrozenLayer) and (base.weight.dtype != dtype or base.weight.requires_grad)
        if name is None or needs_peft:
            return super().forward(x, *args, **kwargs)
        down, up = matrix_of(self.lora_A[name]).to(dtype), matrix_of(self.lora_B[name]).to(dtype)
        result: Tensor = _LinearWithLora.apply(x.to(dtype), base, down, up, self.scaling[name])  # type: ignore[no-untyped-call]
        return result


class _LinearWithLora(torch.autograd.Function):
    """x · Wᵀ + b + scale · (x · downᵀ) · upᵀ, W and b frozen; all tensors of one dtype.

    W is not kept for the backward pass but fetched a second time: it may be quantised, or on the host.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: nn.Linear, down: Tensor, up: Tensor, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        hidden = rows @ down.T
        result = product(base, rows).addmm_(hidden, up.T, alpha=scale)
        ctx.save_for_backward(x, down, up, hidden)
        ctx.base, ctx.scale = base, scale
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, down, up, hidden = ctx.saved_tensors
        rows, out = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        inner = (out @ up).mul_(ctx.scale)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = product_back(ctx.base, out).addmm_(inner, down).view(x.shape)
        return to_x, None, inner.T @ rows, (out.T @ hidden).mul_(ctx.scale), None


class FusedConv2d(Conv2d):
    """A convolution with its LoRA: the low-rank part is added to its output in place."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[B, in, h, w] to [B, out, h', w']."""
        name = _adapter(self, args or kwargs)
        if name is None or (not torch.is_autocast_enabled(x.device.type) and x.dtype != self.lora_A[name].weight.dtype):
            return super().forward(x, *args, **kwargs)
        result: Tensor = self.base_layer(x)
        return result.add_(self.lora_B[name](self.lora_A[name](x)), alpha=self.scaling[name])
