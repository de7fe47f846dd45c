"""peft's LoRA layers with a cheaper training step: the same sum, without the intermediate tensors.

peft computes base(x) + up(down(x)) * scale in three passes over the layer's output, each into new memory, and the same
in the backward pass. Here the low-rank part is added into the base's output by the matrix product itself. A layer with
a slot in the flat parameters also needs no copies of its matrices in the base's number format, and adds to its
gradients itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from peft.tuners.lora.layer import Conv2d, Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from engine.adapters.doubled_layers import DoubledHalf, matrix_of
from engine.adapters.flat import FlatParameters, Slot
from engine.adapters.joint import Joint, join
from engine.lowmem.frozen import FrozenLayer, product, product_back, weight_of

_ANCHOR = torch.zeros((), requires_grad=True)
"""An input with a gradient for layers whose own has none: else autograd would leave them out."""


def fuse(layer: Any) -> None:
    """Convert a layer of peft's to a fused one, in place; layers of other classes are not changed."""
    if type(layer) is Linear:
        layer.__class__ = FusedLinear
    elif type(layer) is Conv2d:
        layer.__class__ = FusedConv2d


def _adapter(layer: Any, arguments: object) -> str | None:
    """The only, plain adapter; None where peft's own forward is needed: no training, a dropout."""
    if (
        not (torch.is_grad_enabled() or layer.training)
        or arguments
        or layer.disable_adapters
        or layer.merged
        or layer.lora_variant
    ):
        return None
    (name, *others) = layer.active_adapters
    if others or name not in layer.lora_A or layer.lora_A[name]._forward_hooks:
        return None
    return str(name) if isinstance(layer.lora_dropout[name], torch.nn.Identity) else None


def _autocast_of(layer: Any, x: Tensor) -> AbstractContextManager[None]:
    """Autocast for peft's own forward, where the layer relies on it and the run does not use it."""
    kind = x.device.type
    if layer.cast_input_dtype_enabled or x.dtype == torch.float32 or torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, x.dtype)


def use_flat(layer: Any, flat: FlatParameters) -> bool:
    """Let a layer compute from the flat parameters; False if it cannot: its LoRA is not a plain one, or the base has
    another number format."""
    if not isinstance(layer, FusedLinear | FusedConv2d):
        return False
    (name,) = layer.active_adapters
    down, up, base = (cast("Any", part) for part in (layer.lora_A[name], layer.lora_B[name], layer.base_layer))
    if isinstance(down, DoubledHalf) or down._forward_hooks or not isinstance(layer.lora_dropout[name], nn.Identity):
        return False
    if not isinstance(base, FrozenLayer) and base.weight.dtype != flat.dtype:
        return False
    if isinstance(base, nn.Conv2d) and (base.groups != 1 or isinstance(base.padding, str)):
        return False
    layer.slot = flat.slot(down.weight, up.weight)
    return True


def _with_slot(function: type[torch.autograd.Function], layer: Any, x: Tensor) -> Tensor:
    (scale,) = layer.scaling.values()
    anchor = None if x.requires_grad else _ANCHOR
    result: Tensor = function.apply(x, anchor, layer.base_layer, layer.slot, scale)  # type: ignore[no-untyped-call]
    return result


def _joined(layers: Sequence[Any]) -> Joint | None:
    slots = [layer.slot for layer in layers if isinstance(layer, FusedLinear) and layer.slot is not None]
    if len(slots) < len(layers):
        return None
    scales = [scale for layer in layers for scale in layer.scaling.values()]
    return join([layer.base_layer for layer in layers], slots, scales)


class FusedLinear(Linear):
    """A linear layer with its LoRA."""

    slot: Slot | None = None

    def together(self, layers: Sequence[Any], x: Tensor) -> Sequence[Tensor] | None:
        """See `engine.models.adapted.outputs_of`; always called with the same layers, of which it is the first."""
        if self.slot is None or not self.slot.flat.is_in_step:
            return None
        joints = self.slot.flat.joints
        if id(self) not in joints:
            joints[id(self)] = _joined(layers)
        joint: Joint | None = joints[id(self)]
        return None if joint is None else joint.outputs(x, None if x.requires_grad else _ANCHOR)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] to [..., out], in autocast's dtype where it is on."""
        if self.slot is not None and self.slot.flat.is_in_step:
            return _with_slot(_LinearWithSlot, self, x)
        name, kind = _adapter(self, args or kwargs), x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        base = self.base_layer
        needs_peft = not isinstance(base, FrozenLayer) and (base.weight.dtype != dtype or base.weight.requires_grad)
        if name is None or needs_peft:
            with _autocast_of(self, x):
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


class _LinearWithSlot(torch.autograd.Function):
    """The same with the matrices and gradients of a slot; the scale is a factor of the products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, base: nn.Linear, slot: Slot, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        hidden = rows @ slot.down.T
        result = product(base, x)
        result.view(-1, result.shape[-1]).addmm_(hidden, slot.up.T, alpha=scale)
        ctx.save_for_backward(x, hidden)
        ctx.base, ctx.slot, ctx.scale = base, slot, scale
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, hidden), slot, scale = ctx.saved_tensors, ctx.slot, ctx.scale
        rows, out = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        inner = out @ slot.up
        slot.down_gradient.addmm_(inner.T, rows, alpha=scale)
        slot.up_gradient.addmm_(out.T, hidden, alpha=scale)
        slot.written()
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = product_back(ctx.base, out).addmm_(inner, slot.down, alpha=scale).view(x.shape)
        return to_x, None, None, None, None


class FusedConv2d(Conv2d):
    """A convolution with its LoRA: the low-rank part is added to its output in place."""

    slot: Slot | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[B, in, h, w] to [B, out, h', w']."""
        if self.slot is not None and self.slot.flat.is_in_step:
            return _with_slot(_Conv2dWithSlot, self, x)
        name = _adapter(self, args or kwargs)
        if name is None or (not torch.is_autocast_enabled(x.device.type) and x.dtype != self.lora_A[name].weight.dtype):
            with _autocast_of(self, x):
                return super().forward(x, *args, **kwargs)
        result: Tensor = self.base_layer(x)
        return result.add_(self.lora_B[name](self.lora_A[name](x)), alpha=self.scaling[name])


class _Conv2dWithSlot(torch.autograd.Function):
    """W * x + b + scale · up * (down * x), W and b frozen; down has the geometry of W, and up a kernel of 1 × 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, base: nn.Conv2d, slot: Slot, scale: float) -> Tensor:
        hidden = functional.conv2d(x, slot.down, None, base.stride, base.padding, base.dilation)
        result: Tensor = base(x).add_(functional.conv2d(hidden, slot.up), alpha=scale)
        ctx.save_for_backward(x, hidden)
        ctx.base, ctx.slot, ctx.scale = base, slot, scale
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, hidden), slot, scale, base = ctx.saved_tensors, ctx.slot, ctx.scale, ctx.base
        needs_x = ctx.needs_input_grad[0]
        inner, to_up = _conv2d_backward(gradient, hidden, slot.up, (1, 1), (0, 0), (1, 1), to_weight=True)
        slot.up_gradient.add_(to_up, alpha=scale)
        geometry = base.stride, base.padding, base.dilation
        to_x, to_down = _conv2d_backward(inner, x, slot.down, *geometry, to_input=needs_x, to_weight=True)
        slot.down_gradient.add_(to_down, alpha=scale)
        slot.written()
        if not needs_x:
            return None, None, None, None, None
        through_base, _ = _conv2d_backward(gradient, x, weight_of(base, gradient.dtype), *geometry)
        return through_base.add_(to_x, alpha=scale), None, None, None, None


def _conv2d_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *,
    to_input: bool = True,
    to_weight: bool = False,
) -> tuple[Tensor, Tensor]:
    """The gradients to a convolution's input and to its weight; what is not asked for is undefined."""
    wanted = [to_input, to_weight, False]
    to_x, to_w, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, dilation, False, [0, 0], 1, wanted
    )
    return to_x, to_w
