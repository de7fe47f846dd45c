"""LoHa: the element-wise product of two matrices of low rank (LyCORIS 4.1 `modules/loha.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, ClassVar

from engine.adapters.kinds.base import SD_SCRIPTS, UIS, Parts, RoleShapes, Weight, first_shape, first_side
from engine.adapters.kinds.formula import SCALAR, Size, has_kernel, normal
from engine.adapters.kinds.trainable import TrainableKind
from engine.config.network import NetworkTable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_ENDS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")


class Loha(TrainableKind):
    """ΔW = (w1_a · w1_b) ⊙ (w2_a · w2_b) · alpha / r; with Tucker cores t [r, r, k, k] w_a is [r, out], w_b [r, in]."""

    name = "LoHa"
    ends: ClassVar[Mapping[str, str]] = {end: end for end in _ENDS}
    marks = frozenset(_ENDS)
    needed = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    scaled = True
    off_at_zero = True
    readers = (*UIS, SD_SCRIPTS, "LyCORIS", "OneTrainer", "SimpleTuner")
    remarks: ClassVar[Mapping[str, str]] = {SD_SCRIPTS: "networks.loha, from version 0.11 on"}
    factors = frozenset(_ENDS)
    written: ClassVar[Mapping[str, str]] = {role: role for role in (*_ENDS, "alpha")}
    outer = frozenset({"hada_w2_a"})
    scaled_by_scalar = frozenset({"hada_w1_a"})
    can_be_decomposed = True

    def rank(self, parts: RoleShapes) -> str | None:
        return first_side(first_shape(parts, "hada_w1_b"))

    def inputs(self, parts: RoleShapes) -> int | None:
        shape = first_shape(parts, "hada_w1_b")
        return shape[1] if len(shape) > 1 else None

    def outputs(self, parts: RoleShapes) -> int | None:
        shape = first_shape(parts, "hada_w1_a")
        return shape[0] if shape else None

    def pairs(self, parts: RoleShapes) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        if "hada_t1" in parts or not {"hada_w1_a", "hada_w1_b"} <= parts.keys():
            return []
        return [(parts["hada_w1_b"], parts["hada_w1_a"])]

    def effective_rank(self, parts: Parts) -> int | None:
        return int(parts["hada_w1_b"].shape[0])

    def delta(self, parts: Parts, weight: Weight) -> Tensor:
        halves = [_half(parts, number) for number in "12"]
        return halves[0] * halves[1] * self.scale(parts)

    # --- in training

    def is_chosen(self, network: NetworkTable) -> bool:
        return network.algo == "loha"

    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        out, inputs, *kernel = shape
        rank = size.rank
        if size.form.use_tucker and has_kernel(shape):
            cores = {f"hada_t{half}": (rank, rank, *kernel) for half in "12"}
            return {**self._pairs((rank, out), (rank, inputs)), **cores}
        return self._pairs((out, rank), (rank, inputs * prod(kernel)))

    def _pairs(self, a: tuple[int, ...], b: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {f"hada_w{half}_{letter}": sides for half in "12" for letter, sides in (("a", a), ("b", b))}

    def initial(self, shape: tuple[int, ...], size: Size, generator: torch.Generator) -> dict[str, Tensor]:
        """Normal with deviations 1 (w_b) and 0.1, w2_a zeros. With a scalar that is 0 instead. (LyCORIS)"""
        import torch

        scalar = size.form.use_scalar
        values = {
            role: torch.zeros(sides)
            if role in self.outer and not scalar
            else normal(sides, 1.0 if role.endswith("_b") else 0.1, generator)
            for role, sides in self.shapes(shape, size).items()
        }
        return {**values, SCALAR: torch.zeros(())} if scalar else values

    def rows(self, parts: Parts, rows: slice) -> Parts | None:
        return {**parts, **{name: parts[name][rows] for name in ("hada_w1_a", "hada_w2_a")}}


def _half(parts: Parts, number: str) -> Tensor:
    import torch

    a, b = parts[f"hada_w{number}_a"].float(), parts[f"hada_w{number}_b"].float()
    core = parts.get(f"hada_t{number}")
    return a @ b.flatten(1) if core is None else torch.einsum("ijhw,jn,im->mnhw", core.float(), b, a)
