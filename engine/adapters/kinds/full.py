"""Differences of full weights, and full weights: what a fine-tune without factors stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from engine.adapters.kinds.base import COMFY, FORGE, UIS, AdapterKind, Parts, RoleShapes, Weight, first_shape
from engine.adapters.kinds.formula import Size
from engine.adapters.kinds.trainable import TrainableKind
from engine.config.network import NetworkTable

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Full(TrainableKind):
    """ΔW itself, and the same of the bias."""

    name = "full difference"
    ends: ClassVar[Mapping[str, str]] = {"diff": "diff", "diff_b": "diff_b"}
    marks = frozenset(ends)
    is_secondary = True
    readers = (*UIS, "LyCORIS")
    factors = frozenset(ends)
    written: ClassVar[Mapping[str, str]] = ends
    outer = frozenset(ends)

    def inputs(self, parts: RoleShapes) -> int | None:
        shape = first_shape(parts, "diff")
        return shape[1] if len(shape) > 1 else None

    def outputs(self, parts: RoleShapes) -> int | None:
        shape = first_shape(parts, "diff")
        return shape[0] if shape else None

    def delta(self, parts: Parts, weight: Weight) -> Tensor:
        return parts["diff"].float()

    # --- in training

    def is_chosen(self, network: NetworkTable) -> bool:
        return network.algo == "full"

    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        return {"diff": shape, **({"diff_b": shape[:1]} if size.bias else {})}

    def initial(self, shape: tuple[int, ...], size: Size, generator: torch.Generator) -> dict[str, Tensor]:
        """Zeros."""
        import torch

        return {role: torch.zeros(sides) for role, sides in self.shapes(shape, size).items()}

    def rows(self, parts: Parts, rows: slice) -> Parts | None:
        return {**parts, "diff": parts["diff"][rows]}


class ReplacementWeight(AdapterKind):
    """A weight that replaces the layer's own, as ComfyUI reads it."""

    name = "whole weight"
    ends: ClassVar[Mapping[str, str]] = {"set_weight": "set_weight"}
    marks = frozenset(ends)
    is_secondary = True
    readers = (COMFY, FORGE)
