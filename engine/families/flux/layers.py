"""The names of FLUX's layers: Kohya's are those of Black Forest Labs, which diffusers splits in part."""

from __future__ import annotations

import re
from typing import ClassVar

from typing_extensions import override

from engine.families.flux.names import DOUBLE, ENDS, SINGLE, layers_of
from engine.families.flux.table import FLUX_TABLE
from engine.families.layer_names import DENOISER, Address, LayerNames

_OURS = re.compile(r"(single_)?transformer_blocks_(\d+)_(.+)")
_KOHYA = re.compile(r"(double_blocks|single_blocks)_(\d+)_(.+)")
_OMI = re.compile(r"((?:double|single)_blocks_\d+_(?:img_attn_qkv|txt_attn_qkv|linear1))_(\d)")
"""OMI's names of the parts of a fused layer."""
_XLABS = re.compile(r"(double|single)_blocks_(\d+)_(qkv|proj)(?:_lora([12]))?")
"""XLabs' names, without the level `processor`: 1 are the layers of the image, 2 those of the text."""
T5_WORDS = (
    *("encoder", "block", "layer", "SelfAttention", "DenseReluDense", "wi_0", "wi_1", "wi", "wo", "q", "k", "v", "o"),
)
"""The parts of module paths of transformers' T5 encoder."""


class FluxNames(LayerNames):
    """FLUX's layers."""

    repeated_share: ClassVar[float] = 0.13

    @override
    def address(self, path: str) -> Address | None:
        """BFL's names, diffusers', OMI's or XLabs'."""
        if place := self.table.resolve(DENOISER + path):
            return Address(place)
        if match := _OURS.fullmatch(path):
            kind = "single_blocks" if match[1] else "double_blocks"
            for name, members in layers_of(kind).items():
                flat = [member.replace(".", "_") for member in members]
                if match[3] in flat:
                    layer = f"{DENOISER}{kind}_{match[2]}_{name.replace('.', '_')}"
                    return Address(layer, flat.index(match[3]), len(flat)) if self.table.resolve(layer) else None
            return None
        if match := _OMI.fullmatch(path):
            return self._part(match[1], int(match[2]))
        if match := _XLABS.fullmatch(path):
            return self._xlabs(match[1], match[2], match[3], match[4])
        ends = {ours.replace(".", "_"): theirs.replace(".", "_") for ours, theirs in ENDS.items()}
        ends["img_in_proj"] = "img_in"  # OMI's name
        layer = DENOISER + ends.get(path, "?")
        return Address(layer) if path in ends and self.table.resolve(layer) else None

    def _part(self, path: str, member: int, count: int = 1) -> Address | None:
        """Some of the diffusers layers of BFL's layer with this path."""
        layer = self.table.resolve(DENOISER + path)
        paths = None if layer is None else self.paths(layer)
        if layer is None or paths is None or member + count > len(paths):
            return None
        return Address(layer, member, len(paths), count)

    def _xlabs(self, kind: str, number: str, layer: str, side: str | None) -> Address | None:
        """In single blocks XLabs has query, key and value in one LoRA, without the MLP that BFL's layer also has."""
        block = f"{kind}_blocks_{number}"
        if (kind == "double") != (side is not None):
            return None
        if kind == "single":
            return self._part(f"{block}_linear1", 0, 3) if layer == "qkv" else self.address(f"{block}_linear2")
        return self.address(f"{block}_{'img' if side == '1' else 'txt'}_attn_{layer}")

    @override
    def paths(self, layer: str) -> tuple[str, ...] | None:
        path = layer.removeprefix(DENOISER)
        if match := _KOHYA.fullmatch(path):
            double = match[1] == "double_blocks"
            ours, layers = ("transformer_blocks", DOUBLE) if double else ("single_transformer_blocks", SINGLE)
            members = next((paths for name, paths in layers.items() if name.replace(".", "_") == match[3]), None)
            return None if members is None else tuple(f"{ours}.{match[2]}.{member}" for member in members)
        end = next((ours for ours, theirs in ENDS.items() if theirs.replace(".", "_") == path), None)
        return None if end is None else (end,)

    @override
    def original(self, layer: str) -> str | None:
        path = layer.removeprefix(DENOISER)
        if match := _KOHYA.fullmatch(path):
            names = (name for name in layers_of(match[1]) if name.replace(".", "_") == match[3])
            return next((f"{match[1]}.{match[2]}.{name}" for name in names), None)
        return next((theirs for theirs in ENDS.values() if theirs.replace(".", "_") == path), None)

    @override
    def row_widths(self, members: int, inputs: int, outputs: int) -> list[int]:
        """Query, key and value are as wide as the input of the layer, and the MLP's first
        layer, which is the fourth member in single blocks, has the rest."""
        if members == 1:
            return [outputs]
        if members == 3:
            return [outputs // 3] * 3
        return [inputs] * 3 + [outputs - 3 * inputs]

    @override
    def usual_widths(self, members: int, inputs: int) -> list[int]:
        """The MLP is four times as wide as the states."""
        return [inputs] * min(members, 3) + [4 * inputs] * (members - 3)

    @override
    def halves_swapped(self, layer: str) -> bool:
        """Shift and scale of the last modulation."""
        return layer == f"{DENOISER}final_layer_adaLN_modulation_1"


FLUX_LAYERS = FluxNames(FLUX_TABLE, ())
