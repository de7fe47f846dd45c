"""The names of a denoiser's layers in Kohya's files and in diffusers' modules, and the mapping between them.

Layers are identified by Kohya's names, as in the family's table. If such a layer is several in diffusers (query, key
and value), a module of a diffusers file is a member of it. Loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from engine.families.module_table import ModuleTable

DENOISER = "lora_unet_"
"""Prefix of Kohya's names of a denoiser's modules, in every family."""
CLIP_WORDS = (
    *("text_model", "encoder", "layers", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "mlp", "fc1", "fc2"),
    "text_projection",
)
"""The parts of module paths of transformers' CLIP text encoders."""


@dataclass(frozen=True)
class Address:
    """The layer of a LoRA module."""

    layer: str
    """Kohya's name."""
    member: int = 0
    """Index among the diffusers layers that this layer consists of."""
    members: int = 1
    """How many those are; 1 also where the module is the complete layer."""
    count: int = 1
    """How many of them, from `member` on, the module covers."""


@dataclass(frozen=True)
class LayerNames:
    """The names of a family whose layers are the same in Kohya's files and in diffusers; subclasses map others."""

    table: ModuleTable
    words: Sequence[str]
    """The parts of module paths of the denoiser: Kohya's names lose the dots ("attn1_to_out_0" is "attn1.to_out.0")."""
    repeated_share: ClassVar[float] = 0.0
    """How much larger a file in diffusers' names is at most, as a share: layers in parts repeat their down matrix."""

    def address(self, path: str) -> Address | None:
        """The layer of a module by its path in the denoiser, with underscores for dots; None if there is none."""
        layer = self.table.resolve(DENOISER + path)
        return None if layer is None else Address(layer)

    def paths(self, layer: str) -> tuple[str, ...] | None:
        """The diffusers modules that Kohya's `layer` consists of, in the order of its rows; None if unknown."""
        path = dotted(layer.removeprefix(DENOISER), self.words)
        return None if path is None else (path,)

    def original(self, layer: str) -> str | None:
        """The module of Kohya's `layer` in the model's original files, which ComfyUI uses too; None if unknown."""
        return dotted(layer.removeprefix(DENOISER), self.words)

    def row_widths(self, members: int, inputs: int, outputs: int) -> list[int]:
        """Outputs of each member of a layer with so many inputs, and outputs of all members together."""
        assert members == 1, "every layer is a single one here"
        return [outputs]

    def usual_widths(self, members: int, inputs: int) -> list[int]:
        """The same if not every member is in the file, so that the outputs are unknown."""
        assert members == 1, "every layer is a single one here"
        return [inputs]

    def halves_swapped(self, layer: str) -> bool:
        """Whether the two halves of the layer's rows are swapped in diffusers."""
        return False


def dotted(name: str, words: Sequence[str]) -> str | None:
    """The module path behind `name`; None if it has a part that is neither in `words` nor a number.

    Args:
        name: "down_blocks_0_attentions_1_proj_in".
    """
    longest_first = sorted(words, key=len, reverse=True)
    part = re.compile("(?:" + "|".join([*longest_first, r"\d+"]) + r")(?=_|$)")
    parts, at = [], 0
    while at < len(name):
        match = part.match(name, at)
        if match is None:
            return None
        parts.append(match[0])
        at = match.end() + 1
    return ".".join(parts) or None
