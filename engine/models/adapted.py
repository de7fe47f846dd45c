"""Whether a layer carries an adapter. Loads no torch."""

from __future__ import annotations

from typing import Any


def is_adapted(layer: Any) -> bool:
    """Whether the layer is wrapped (an adapter in training) or hooked (an applied file)."""
    return hasattr(layer, "base_layer") or bool(layer._forward_hooks)
