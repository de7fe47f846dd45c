"""LoKr: the Kronecker product of two matrices, each possibly a product itself (LyCORIS 4.1 `modules/lokr.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, ClassVar

from engine.adapters.kinds.base import DIFFUSERS, SD_SCRIPTS, UIS, Parts, RoleShapes, Weight, first_shape, first_side
from engine.adapters.kinds.factorization import factorization
from engine.adapters.kinds.formula import SCALAR, Size, has_kernel, kaiming
from engine.adapters.kinds.trainable import TrainableKind
from engine.config.network import NetworkTable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_FACTORS = tuple(f"lokr_{end}" for end in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))


class Lokr(TrainableKind):
    """ΔW = W1 [l, m] ⊗ W2 [k, n(, kh, kw)]; alpha / r applies only where one of them is a product."""

    name = "LoKr"
    ends: ClassVar[Mapping[str, str]] = {end: end for end in (*_FACTORS, "lokr_t1")}
    marks = frozenset({*_FACTORS, "lokr_t1"})
    readers = (*UIS, SD_SCRIPTS, "LyCORIS", "OneTrainer", "SimpleTuner")
    diffusers_bases = frozenset({"FLUX.2", "Z-Image"})
    remarks: ClassVar[Mapping[str, str]] = {
        SD_SCRIPTS: "networks.lokr, from version 0.11 on",
        DIFFUSERS: "it loads this kind for FLUX.2 and Z-Image only",
    }
    factors = frozenset(_FACTORS)
    written: ClassVar[Mapping[str, str]] = {role: role for role in (*_FACTORS, "alpha")}
    outer = frozenset({"lokr_w2", "lokr_w2_b"})
    plus = frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b"})
    scaled_by_scalar = frozenset({"lokr_w1", "lokr_w1_a"})
    can_be_decomposed = True

    def lacking(self, parts: RoleShapes, style: str) -> list[str]:
        factors = ("lokr_w1", "lokr_w2")
        return [name for name in factors if name not in parts and not {f"{name}_a", f"{name}_b"} <= parts.keys()]

    def rank(self, parts: RoleShapes) -> str | None:
        if {"lokr_w1", "lokr_w2"} <= parts.keys():
            return "full"
        return first_side(first_shape(parts, "lokr_w1_b", "lokr_w2_b"))

    def inputs(self, parts: RoleShapes) -> int | None:
        first, second = _nonempty_shape(parts, "lokr_w1", "lokr_w1_b"), _nonempty_shape(parts, "lokr_w2", "lokr_w2_b")
        return first[1] * second[1] if len(first) > 1 and len(second) > 1 else None

    def outputs(self, parts: RoleShapes) -> int | None:
        first, second = _nonempty_shape(parts, "lokr_w1", "lokr_w1_a"), _nonempty_shape(parts, "lokr_w2", "lokr_w2_a")
        return first[0] * second[0] if first and second else None

    def effective_rank(self, parts: Parts) -> int | None:
        """None for two full factors: readers ignore alpha then."""
        return next((int(parts[name].shape[0]) for name in ("lokr_w2_b", "lokr_w1_b") if name in parts), None)

    def kronecker(self, parts: Parts) -> tuple[Tensor, Tensor] | None:
        import torch

        first, core = _product(parts, "lokr_w1"), parts.get("lokr_t2")
        if core is None:
            return first, _product(parts, "lokr_w2")
        a, b = parts["lokr_w2_a"].float(), parts["lokr_w2_b"].float()
        return first, torch.einsum("ijhw,jn,im->mnhw", core.float(), b, a)

    def delta(self, parts: Parts, weight: Weight) -> Tensor:
        import torch

        factors = self.kronecker(parts)
        assert factors is not None
        first, second = factors
        first = first.reshape(*first.shape, *(1 for _ in second.shape[2:]))
        return torch.kron(first, second.contiguous()) * self.scale(parts)

    # --- in training

    def is_chosen(self, network: NetworkTable) -> bool:
        return network.algo == "lokr"

    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        out, inputs, *kernel = shape
        rank, form = size.rank, size.form
        first_out, second_out = factorization(out, form.factor)
        if form.unbalanced_factorization:
            first_out, second_out = second_out, first_out
        first_in, second_in = factorization(inputs, form.factor)
        if form.decompose_both and rank < max(first_out, first_in) / 2 and not form.full_matrix:
            shapes = {"lokr_w1_a": (first_out, rank), "lokr_w1_b": (rank, first_in)}
        else:
            shapes = {"lokr_w1": (first_out, first_in)}
        if form.full_matrix or rank >= max(second_out, second_in) / 2:
            return {**shapes, "lokr_w2": (second_out, second_in, *kernel)}
        if form.use_tucker and has_kernel(shape):
            core = {"lokr_t2": (rank, rank, *kernel)}
            return {**shapes, "lokr_w2_a": (rank, second_out), "lokr_w2_b": (rank, second_in), **core}
        return {**shapes, "lokr_w2_a": (second_out, rank), "lokr_w2_b": (rank, second_in * prod(kernel))}

    def constants(self, shape: tuple[int, ...], size: Size) -> dict[str, float]:
        """Two full matrices have no scale: LyCORIS writes the rank, so that a reader that divides gets 1."""
        full = {"lokr_w1", "lokr_w2"} <= (dict(size.file_shapes) or self.shapes(shape, size)).keys()
        return {"alpha": float(size.rank) if full else size.alpha}

    def initial(self, shape: tuple[int, ...], size: Size, generator: torch.Generator) -> dict[str, Tensor]:
        """Kaiming uniform; of the second matrix, or its inner factor, zeros. With a scalar that is 0 instead."""
        import torch

        shapes, scalar = self.shapes(shape, size), size.form.use_scalar
        values = {
            role: torch.zeros(sides) if role in self.outer and not scalar else kaiming(sides, generator)
            for role, sides in shapes.items()
        }
        return {**values, SCALAR: torch.zeros(())} if scalar else values

    def rows(self, parts: Parts, rows: slice) -> Parts | None:
        """Whole rows of the first matrix, where the slice has such."""
        second = parts["lokr_w2"] if "lokr_w2" in parts else parts["lokr_w2_a"]
        height = len(second)
        if rows.start % height or rows.stop % height:
            return None
        name = "lokr_w1" if "lokr_w1" in parts else "lokr_w1_a"
        return {**parts, name: parts[name][rows.start // height : rows.stop // height]}


def _nonempty_shape(parts: RoleShapes, *roles: str) -> tuple[int, ...]:
    return next((parts[role] for role in roles if parts.get(role)), ())


def _product(parts: Parts, name: str) -> Tensor:
    if name in parts:
        return parts[name].float()
    a, b = parts[f"{name}_a"].float(), parts[f"{name}_b"].float()
    return (a @ b.flatten(1)).reshape(len(a), *b.shape[1:])
