"""What a model asks of its layers about their adapters. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def is_adapted(layer: Any) -> bool:
    """Whether the layer is wrapped (an adapter in training) or hooked (an applied file)."""
    return hasattr(layer, "base_layer") or bool(layer._forward_hooks)


def outputs_of(layers: Sequence[Any], x: Tensor) -> Sequence[Tensor]:
    """The output of each of these layers, which all have the input `x`; adapted layers may compute them together."""
    together = getattr(layers[0], "together", None)
    joint = None if together is None else together(layers, x)
    return [layer(x) for layer in layers] if joint is None else joint
