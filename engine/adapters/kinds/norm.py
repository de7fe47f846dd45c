"""Norm layers: differences of their weights and biases (LyCORIS 4.1 `modules/norms.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from engine.adapters.kinds.base import A1111, UIS, Parts, RoleShapes, Weight, first_shape
from engine.adapters.kinds.formula import Size
from engine.adapters.kinds.trainable import LayerKind, TrainableKind
from engine.config.network import NetworkTable

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Norm(TrainableKind):
    """Differences of the weight and the bias of a normalisation layer; trained beside another kind (`train_norm`)."""

    name = "norm"
    ends: ClassVar[Mapping[str, str]] = {"w_norm": "w_norm", "b_norm": "b_norm"}
    marks = frozenset(ends)
    needed = ("w_norm",)
    in_tables = False
    is_companion = True
    readers = (*UIS, "LyCORIS")
    remarks: ClassVar[Mapping[str, str]] = {A1111: "where both weight and bias are in the file, as here"}
    factors = frozenset(ends)
    written: ClassVar[Mapping[str, str]] = ends
    outer = frozenset(ends)

    def outputs(self, parts: RoleShapes) -> int | None:
        shape = first_shape(parts, "w_norm")
        return shape[0] if shape else None

    def delta(self, parts: Parts, weight: Weight) -> Tensor:
        """The difference of the weight, [channels]."""
        return parts["w_norm"].float()

    # --- in training

    def is_chosen(self, network: NetworkTable) -> bool:
        """Never as the kind of a run."""
        return False

    def size_of(self, layer: LayerKind, network: NetworkTable) -> Size | None:
        return Size(1, 1.0) if layer == "norm" and network.train_norm else None

    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(self.written, shape[:1])

    def initial(self, shape: tuple[int, ...], size: Size, generator: torch.Generator) -> dict[str, Tensor]:
        """Zeros."""
        import torch

        return {role: torch.zeros(sides) for role, sides in self.shapes(shape, size).items()}
