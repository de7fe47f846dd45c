"""GLoRA: a change of low rank that also goes through the layer's own weight (LyCORIS 4.1 `modules/glora.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from engine.adapters.kinds.base import UIS, Parts, RoleShapes, Weight, first_shape, first_side
from engine.adapters.kinds.formula import SCALAR, Size, kaiming
from engine.adapters.kinds.trainable import TrainableKind
from engine.config.network import NetworkTable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_MATRICES = ("a1", "a2", "b1", "b2")


class Glora(TrainableKind):
    """ΔW = (W · a1 · a2 + b1 · b2) · alpha / r; a1 · a2 acts on the inputs of each place of a kernel alike."""

    name = "GLoRA"
    ends: ClassVar[Mapping[str, str]] = {f"{end}.weight": f"glora_{end}" for end in (*_MATRICES, "bm")}
    marks = frozenset(ends.values())
    needed = ("glora_a1", "glora_a2", "glora_b1", "glora_b2")
    scaled = True
    off_at_zero = True
    readers = (*UIS, "LyCORIS")
    factors = frozenset(needed)
    needs_weight = True
    written: ClassVar[Mapping[str, str]] = {**{f"glora_{end}": f"{end}.weight" for end in _MATRICES}, "alpha": "alpha"}
    outer = frozenset({"glora_a2", "glora_b2"})
    scaled_by_scalar = outer

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
        import torch

        own = weight()
        a1, a2, b1, b2 = (parts[f"glora_{end}"].flatten(1) for end in _MATRICES)
        through = torch.einsum("oj...,ji->oi...", torch.einsum("oi...,ij->oj...", own, a1), a2)
        return (through.flatten(1) + b1 @ b2) * self.scale(parts)

    # --- in training

    def is_chosen(self, network: NetworkTable) -> bool:
        return network.algo == "glora"

    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        out, inputs, *kernel = shape
        rank, ones = size.rank, [1] * len(kernel)
        return {
            "glora_a1": (inputs, rank, *ones),
            "glora_a2": (rank, inputs, *ones),
            "glora_b1": (out, rank, *ones),
            "glora_b2": (rank, inputs, *kernel),
        }

    def initial(self, shape: tuple[int, ...], size: Size, generator: torch.Generator) -> dict[str, Tensor]:
        """Kaiming uniform; a2 and b2 zeros. With a scalar that is 0 instead."""
        import torch

        scalar = size.form.use_scalar
        values = {
            role: torch.zeros(sides) if role in self.outer and not scalar else kaiming(sides, generator)
            for role, sides in self.shapes(shape, size).items()
        }
        return {**values, SCALAR: torch.zeros(())} if scalar else values

    def rows(self, parts: Parts, rows: slice) -> Parts | None:
        return {**parts, "glora_b1": parts["glora_b1"][rows]}
