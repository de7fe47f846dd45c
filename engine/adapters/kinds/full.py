"""Differences of full weights, and full weights: what a fine-tune without factors stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from engine.adapters.kinds.base import COMFY, FORGE, UIS, AdapterKind, Parts, RoleShapes, Weight, first_shape

if TYPE_CHECKING:
    from torch import Tensor


class Full(AdapterKind):
    """ΔW itself, and the same of the bias."""

    name = "full difference"
    ends: ClassVar[Mapping[str, str]] = {"diff": "diff", "diff_b": "diff_b"}
    marks = frozenset(ends)
    is_secondary = True
    readers = (*UIS, "LyCORIS")
    factors = frozenset(ends)

    def inputs(self, parts: RoleShapes) -> int | None:
        shape = first_shape(parts, "diff")
        return shape[1] if len(shape) > 1 else None

    def outputs(self, parts: RoleShapes) -> int | None:
        shape = first_shape(parts, "diff")
        return shape[0] if shape else None

    def delta(self, parts: Parts, weight: Weight) -> Tensor:
        return parts["diff"].float()


class ReplacementWeight(AdapterKind):
    """A weight that replaces the layer's own, as ComfyUI reads it."""

    name = "whole weight"
    ends: ClassVar[Mapping[str, str]] = {"set_weight": "set_weight"}
    marks = frozenset(ends)
    is_secondary = True
    readers = (COMFY, FORGE)


class Norm(AdapterKind):
    """Differences of the weight and the bias of a normalisation layer."""

    name = "norm"
    ends: ClassVar[Mapping[str, str]] = {"w_norm": "w_norm", "b_norm": "b_norm"}
    marks = frozenset(ends)
    in_tables = False
    readers = (*UIS, "LyCORIS")

    def outputs(self, parts: RoleShapes) -> int | None:
        shape = first_shape(parts, "w_norm")
        return shape[0] if shape else None
