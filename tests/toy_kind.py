"""A kind of adapter that exists for the tests only, as an installed package would bring it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from engine.adapters.kinds.base import Parts, RoleShapes, Weight
from engine.adapters.kinds.formula import Size
from engine.adapters.kinds.trainable import TrainableKind
from engine.config.schema import NetworkTable


class Cross(TrainableKind):
    """ΔW[o, i] = row[o] + column[i]: of rank 2 whatever the layer is."""

    name = "cross"
    ends: ClassVar[Mapping[str, str]] = {"cross_row": "row", "cross_column": "column"}
    written: ClassVar[Mapping[str, str]] = {"row": "cross_row", "column": "cross_column"}
    marks = outer = factors = frozenset({"row", "column"})
    needed = ("row", "column")

    def is_chosen(self, network: NetworkTable) -> bool:
        return True

    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        return {"row": (shape[0], 1), "column": (1, prod(shape[1:]))}

    def initial(self, shape: tuple[int, ...], size: Size, generator: torch.Generator) -> dict[str, Tensor]:
        return {role: torch.zeros(sides) for role, sides in self.shapes(shape, size).items()}

    def inputs(self, parts: RoleShapes) -> int | None:
        return parts["column"][1]

    def outputs(self, parts: RoleShapes) -> int | None:
        return parts["row"][0]

    def delta(self, parts: Parts, weight: Weight) -> Tensor:
        return parts["row"] + parts["column"]
