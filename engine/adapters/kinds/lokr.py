"""LoKr: the Kronecker product of two matrices, each possibly a product itself (LyCORIS 4.1 `modules/lokr.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from engine.adapters.kinds.base import SD_SCRIPTS, UIS, AdapterKind, Parts, RoleShapes, Weight, first_shape, first_side

if TYPE_CHECKING:
    from torch import Tensor

_FACTORS = tuple(f"lokr_{end}" for end in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))


class Lokr(AdapterKind):
    """ΔW = W1 [l, m] ⊗ W2 [k, n(, kh, kw)]; alpha / r applies only where one of them is a product."""

    name = "LoKr"
    ends: ClassVar[Mapping[str, str]] = {end: end for end in (*_FACTORS, "lokr_t1")}
    marks = frozenset({*_FACTORS, "lokr_t1"})
    readers = (*UIS, SD_SCRIPTS, "LyCORIS", "OneTrainer", "SimpleTuner")
    diffusers_bases = frozenset({"FLUX.2", "Z-Image"})
    factors = frozenset(_FACTORS)

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


def _nonempty_shape(parts: RoleShapes, *roles: str) -> tuple[int, ...]:
    return next((parts[role] for role in roles if parts.get(role)), ())


def _product(parts: Parts, name: str) -> Tensor:
    if name in parts:
        return parts[name].float()
    a, b = parts[f"{name}_a"].float(), parts[f"{name}_b"].float()
    return (a @ b.flatten(1)).reshape(len(a), *b.shape[1:])
