"""The weights of loaded layers in any storage form, and the output of a layer with another weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.lowmem.frozen import FrozenLayer


def shape_of(layer: nn.Module) -> tuple[int, ...]:
    """The shape of the layer's weight, also where it is quantised."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
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


def joined_weight(layers: Sequence[nn.Module]) -> Tensor:
    """The stacked rows of several layers' weights, float32, on the first one's device; each is copied first: a fetched
    weight is valid only until the next is fetched."""
    return torch.cat([weight_of(layer).to(torch.float32, copy=True) for layer in layers])
