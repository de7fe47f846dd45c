"""T-LoRA: a LoRA whose active ranks depend on the timestep, in LyCORIS' form; recognised only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from engine.adapters.kinds.base import AdapterKind, RoleShapes, first_shape, first_side


class Tlora(AdapterKind):
    """Three factors, minus their initial values, which the file does not have."""

    name = "T-LoRA"
    ends: ClassVar[Mapping[str, str]] = {
        "q_layer.weight": "tlora_q",
        "p_layer.weight": "tlora_p",
        "lambda_layer": "tlora_lambda",
    }
    marks = frozenset(ends.values())
    needed = ("tlora_q", "tlora_p", "tlora_lambda")
    off_at_zero = True
    readers = ("LyCORIS",)

    def rank(self, parts: RoleShapes) -> str | None:
        return first_side(first_shape(parts, "tlora_q"))

    def inputs(self, parts: RoleShapes) -> int | None:
        shape = first_shape(parts, "tlora_q")
        return shape[1] if len(shape) > 1 else None
