"""GLoRA: a change of low rank that also goes through the layer's own weight (LyCORIS 4.1 `modules/glora.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from engine.adapters.kinds.base import UIS, AdapterKind, Parts, RoleShapes, Weight, first_shape, first_side

if TYPE_CHECKING:
    from torch import Tensor


class Glora(AdapterKind):
    """ΔW = (W · a1 · a2 + b1 · b2) · alpha / r."""

    name = "GLoRA"
    ends: ClassVar[Mapping[str, str]] = {f"{end}.weight": f"glora_{end}" for end in ("a1", "a2", "b1", "b2", "bm")}
    marks = frozenset(ends.values())
    needed = ("glora_a1", "glora_a2", "glora_b1", "glora_b2")
    scaled = True
    off_at_zero = True
    readers = (*UIS, "LyCORIS")
    factors = frozenset(needed)
    needs_weight = True

    def rank(self, parts: RoleShapes) -> str | None:
        return first_side(first_shape(parts, "glora_a2"))

    def inputs(self, parts: RoleShapes) -> int | None:
        shape = first_shape(parts, "glora_a2")
        return shape[1] if len(shape) > 1 else None

    def outputs(self, parts: RoleShapes) -> int | None:
        shape = first_shape(parts, "glora_b1")
        return shape[0] if shape else None

    def effective_rank(self, parts: Parts) -> int | None:
        return int(parts["glora_a2"].shape[0])

    def delta(self, parts: Parts, weight: Weight) -> Tensor:
        through = weight().flatten(1) @ parts["glora_a1"].flatten(1) @ parts["glora_a2"].flatten(1)
        added: Tensor = parts["glora_b1"].flatten(1) @ parts["glora_b2"].flatten(1)
        return (through + added) * self.scale(parts)
