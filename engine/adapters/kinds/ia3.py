"""(IA)³: a factor for each input or each output of a layer (Liu et al. 2022), in LyCORIS' form and in peft's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from engine.adapters.kinds.base import A1111, AdapterKind, Parts, Weight
from engine.adapters.kinds.formula import Size
from engine.adapters.kinds.trainable import TrainableKind
from engine.config.network import NetworkTable
from engine.types import LoraTarget

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_ON_OUTPUTS = re.compile(r"(?:_to_[kv]|_[kv]_proj|_attn_qkv|_linear1)$")
_ON_INPUTS = re.compile(r"(?:_ff_net_2|_mlp_fc2|_mlp_2|_linear2)$")
"""Ends of the names of the layers that get one: keys and values, and what follows the inner activations of a
feed-forward block (LyCORIS' preset ia3); where these are one layer with others, all of that."""


class Ia3(TrainableKind):
    """ΔW = W · w, where w are factors minus 1."""

    name = "(IA)³"
    ends: ClassVar[Mapping[str, str]] = {"on_input": "on_input"}
    paired_ends: ClassVar[Mapping[str, tuple[str, str]]] = {"weight": ("weight", "on_input")}
    marks = frozenset({"on_input"})
    needed = ("weight", "on_input")
    readers = (A1111, "LyCORIS")
    remarks: ClassVar[Mapping[str, str]] = {A1111: "linear layers only"}
    factors = frozenset({"weight", "on_input"})
    needs_weight = True
    written: ClassVar[Mapping[str, str]] = {"weight": "weight", "on_input": "on_input"}
    outer = frozenset({"weight"})

    def delta(self, parts: Parts, weight: Weight) -> Tensor:
        factors, own = parts["weight"].flatten(), weight()
        if bool(parts["on_input"]):
            return own * factors.reshape(1, -1, *(1 for _ in own.shape[2:]))
        return own * factors.reshape(-1, *(1 for _ in own.shape[1:]))

    # --- in training

    def is_chosen(self, network: NetworkTable) -> bool:
        return network.algo == "ia3"

    def takes_convolutions(self, network: NetworkTable) -> bool:
        return False

    def takes(self, name: str) -> bool:
        return bool(_ON_OUTPUTS.search(name) or _ON_INPUTS.search(name))

    def sizes(
        self,
        targets: Iterable[LoraTarget],
        network: NetworkTable,
        modules: Mapping[str, Mapping[str, Tensor]] | None,
        tables: Mapping[str, NetworkTable],
    ) -> dict[str, Size]:
        sizes = super().sizes(targets, network, modules, tables)
        return {name: _placed(name, size) for name, size in sizes.items()}

    def count(self, name: str, shape: tuple[int, ...], layer: str, network: NetworkTable, *, bias: bool = False) -> int:
        return shape[1 if _ON_INPUTS.search(name) else 0] if self.takes(name) else 0

    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        number = shape[1 if size.on_input else 0]
        return {"weight": (1, number, *(1 for _ in shape[2:])) if shape[2:] else (number,)}

    def constants(self, shape: tuple[int, ...], size: Size) -> dict[str, float]:
        return {"on_input": float(size.on_input)}

    def initial(self, shape: tuple[int, ...], size: Size, generator: torch.Generator) -> dict[str, Tensor]:
        """Zeros."""
        import torch

        return {role: torch.zeros(sides) for role, sides in self.shapes(shape, size).items()}

    def rows(self, parts: Parts, rows: slice) -> Parts | None:
        return parts if bool(parts["on_input"]) else {**parts, "weight": parts["weight"][rows]}


def _placed(name: str, size: Size) -> Size:
    return replace(size, on_input=bool(_ON_INPUTS.search(name)))


class Ia3OfPeft(AdapterKind):
    """(IA)³ as peft stores it: the factors themselves."""

    name = "(IA)³ of peft"
    ends: ClassVar[Mapping[str, str]] = {"ia3_l": "ia3_l"}
    marks = frozenset(ends)
    readers = ("peft",)
