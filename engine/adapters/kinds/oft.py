"""OFT and BOFT: rotations of a layer's outputs or inputs (LyCORIS 4.1, peft); recognised only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from engine.adapters.kinds.base import A1111, COMFY, AdapterKind, RoleShapes


class Oft(AdapterKind):
    """One rotation of blocks of outputs: `oft_blocks` [blocks, b, b]."""

    name = "OFT"
    ends: ClassVar[Mapping[str, str]] = {end: end for end in ("oft_blocks", "oft_diag", "rescale")}
    marks = frozenset({"oft_blocks", "oft_diag"})
    needed = ("oft_blocks",)
    readers = (COMFY, A1111, "LyCORIS")
    caution = "ComfyUI is right for it only at strength 1."

    def recognises(self, parts: RoleShapes) -> bool:
        return super().recognises(parts) and len(parts.get("oft_blocks", ())) != 4

    def rank(self, parts: RoleShapes) -> str | None:
        blocks = parts.get("oft_blocks", ())
        return f"{blocks[-3]} blocks of {blocks[-1]}" if len(blocks) > 2 else None


class Boft(Oft):
    """Several rotations, one after the other: `oft_blocks` [rotations, blocks, b, b]."""

    name = "BOFT"
    ends: ClassVar[Mapping[str, str]] = {}

    def recognises(self, parts: RoleShapes) -> bool:
        return len(parts.get("oft_blocks", ())) == 4


class OftOfPeft(AdapterKind):
    """Rotations of the inputs, as peft stores them."""

    name = "OFT of peft"
    ends: ClassVar[Mapping[str, str]] = {"oft_R.weight": "oft_R"}
    marks = frozenset({"oft_R"})
    readers = ("OneTrainer", "peft")
