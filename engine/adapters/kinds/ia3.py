"""(IA)³: a factor for each input or each output of a layer (Liu et al. 2022), in LyCORIS' form and in peft's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from engine.adapters.kinds.base import A1111, AdapterKind, Parts, Weight

if TYPE_CHECKING:
    from torch import Tensor


class Ia3(AdapterKind):
    """ΔW = W · w, where w are factors minus 1."""

    name = "(IA)³"
    ends: ClassVar[Mapping[str, str]] = {"on_input": "on_input"}
    paired_ends: ClassVar[Mapping[str, tuple[str, str]]] = {"weight": ("weight", "on_input")}
    marks = frozenset({"on_input"})
    needed = ("weight", "on_input")
    readers = (A1111, "LyCORIS")
    factors = frozenset({"weight", "on_input"})
    needs_weight = True

    def delta(self, parts: Parts, weight: Weight) -> Tensor:
        factors, own = parts["weight"].flatten(), weight()
        if bool(parts["on_input"]):
            return own * factors.reshape(1, -1, *(1 for _ in own.shape[2:]))
        return own * factors.reshape(-1, *(1 for _ in own.shape[1:]))


class Ia3OfPeft(AdapterKind):
    """(IA)³ as peft stores it: the factors themselves."""

    name = "(IA)³ of peft"
    ends: ClassVar[Mapping[str, str]] = {"ia3_l": "ia3_l"}
    marks = frozenset(ends)
    readers = ("peft",)
