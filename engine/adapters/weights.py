"""The weights of loaded layers in any storage form, and the output of a layer with another weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.lowmem.frozen import FrozenLayer

NORMS = (nn.LayerNorm, nn.GroupNorm)
"""Normalisation layers that an adapter can change."""


def shape_of(layer: nn.Module) -> tuple[int, ...]:
    """The shape of the layer's weight, also where it is quantised."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    if isinstance(layer, NORMS):
        return tuple(layer.weight.shape)
    assert isinstance(layer, nn.Conv2d)
    return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size


def weight_of(layer: nn.Module) -> Tensor:
    """The weight in the shape of `shape_of`; a frozen layer's is valid until another layer's is fetched."""
    if isinstance(layer, FrozenLayer):
        return layer.dequantize(torch.float32)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return layer.weight


def apply_weight(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's output with this weight and no bias."""
    if isinstance(layer, nn.Linear):
        return functional.linear(x, weight)
    assert isinstance(layer, nn.Conv2d) and not isinstance(layer.padding, str)
    return functional.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def apply_norm(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The output of a norm layer with this weight and bias."""
    if isinstance(layer, nn.LayerNorm):
        return functional.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
    assert isinstance(layer, nn.GroupNorm)
    return functional.group_norm(x, layer.num_groups, weight, bias, layer.eps)


def apply_factors(
    layer: nn.Module,
    x: Tensor,
    pair: tuple[Tensor, Tensor] | None,
    kronecker: tuple[Tensor, Tensor] | None,
    scale: float,
) -> Tensor:
    """The layer's output with the product of factors, times `scale`, as its weight, and no bias; in x's dtype.

    Args:
        pair: down [r, in(, k, k)] and up [out, r(, 1, 1)].
        kronecker: where there is no `pair`: two matrices, for a linear layer.
    """
    if pair is not None:
        down, up = (half.to(x.dtype) for half in pair)
        hidden = apply_weight(layer, x, down.reshape(len(down), *shape_of(layer)[1:]))
        if isinstance(layer, nn.Linear):
            return functional.linear(hidden, up.flatten(1)) * scale
        return functional.conv2d(hidden, up.reshape(*up.shape[:2], 1, 1)) * scale
    assert kronecker is not None
    first, second = (half.to(x.dtype) for half in kronecker)
    blocks = x.reshape(*x.shape[:-1], first.shape[1], second.shape[1]) @ second.T
    product: Tensor = (blocks.transpose(-1, -2) @ first.T).transpose(-1, -2).flatten(-2)
    return product * scale


def joined_weight(layers: Sequence[nn.Module]) -> Tensor:
    """The stacked rows of several layers' weights, float32, on the first one's device; each is copied first: a fetched
    weight is valid only until the next is fetched."""
    return torch.cat([weight_of(layer).to(torch.float32, copy=True) for layer in layers])
