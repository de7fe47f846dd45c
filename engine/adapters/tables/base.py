"""What is known of the LoRA modules of one kind of model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

_BLOCK = re.compile(r"lora_unet_(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)")
_MIDDLE = re.compile(r"lora_unet_mid_block_(attentions|resnets)_(\d+)_(.+)")
_SAMPLER = re.compile(r"lora_unet_(down|up)_blocks_(\d+)_(?:down|up)samplers_0_conv")
_RESNET = {"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1"}
_RESNET |= {"conv_shortcut": "skip_connection"}
_ENDS = {
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
    **{f"time_embedding_linear_{number}": f"time_embed_{2 * number - 2}" for number in (1, 2)},
    **{f"add_embedding_linear_{number}": f"label_emb_0_{2 * number - 2}" for number in (1, 2)},
}
"""The UNet's layers outside its blocks, in diffusers' and in the original names. LyCORIS trains them too."""


@dataclass(frozen=True)
class Table:
    """The modules that Kohya makes for a kind of model."""

    attention: Mapping[str, tuple[str, ...]]
    """Component, as `inspect_lora` calls it, to its modules without convolutions."""
    convolutions: tuple[str, ...] = ()
    """Modules of the denoiser that come besides: with conv_dim, in FLUX with in_dims."""
    attending: tuple[bool, ...] = ()
    """Whether each up block of a UNet has attention; empty where the denoiser is no UNet."""
    outside: tuple[str, ...] = ()
    """Further layers that other programs train and readers take."""

    @cached_property
    def names(self) -> frozenset[str]:
        """Every module."""
        return frozenset([*(name for names in self.attention.values() for name in names), *self.convolutions])

    @cached_property
    def _aliases(self) -> dict[str, str]:
        """Every name that a reader takes for a module to the one in this table, or to itself where none is."""
        own = dict.fromkeys(self.outside, "") | {name: name for name in self.names}
        if self.attending:
            own |= {f"lora_unet_{name}": "" for pair in _ENDS.items() for name in pair}
            own = {as_original(name, self.attending): target for name, target in own.items()} | own
        return {name: target or name for name, target in own.items()}

    def place(self, name: str) -> str | None:
        """Kohya's name of a module that is named so, with a UNet's blocks as diffusers or the original files number
        them; None where the model has no such layer."""
        if name in self._aliases:
            return self._aliases[name]
        return self._aliases.get(as_original(name, self.attending)) if self.attending else None

    def counts(self, modules: frozenset[str], components: frozenset[str]) -> dict[str, int]:
        """How many modules a complete file has, for the components that `modules` belong to."""
        more = len(self.convolutions) if modules & set(self.convolutions) else 0
        return {
            title: len(names) + (more if title in ("UNet", "transformer") else 0)
            for title, names in self.attention.items()
            if title in components
        }


def as_original(name: str, attending: tuple[bool, ...]) -> str:
    """A layer of a UNet with two resnets a level, in the original files' names where it is in diffusers'.

    Args:
        name: "lora_unet_down_blocks_1_attentions_0_proj_in".
        attending: see `Table.attending`.
    """
    if match := _BLOCK.fullmatch(name):
        half, block, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        row = 3 * block + number
        front = f"input_blocks_{row + 1}" if half == "down" else f"output_blocks_{row}"
        return f"lora_unet_{front}_{_inside(kind, rest)}"
    if match := _MIDDLE.fullmatch(name):
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"lora_unet_middle_block_{place}_{_RESNET.get(match[3], match[3])}"
    if match := _SAMPLER.fullmatch(name):
        block = int(match[2])
        if match[1] == "down":
            return f"lora_unet_input_blocks_{3 * block + 3}_0_op"
        return f"lora_unet_output_blocks_{3 * block + 2}_{2 if attending[block : block + 1] == (True,) else 1}_conv"
    end = _ENDS.get(name.removeprefix("lora_unet_"))
    return f"lora_unet_{end}" if end else name


def _inside(kind: str, rest: str) -> str:
    return f"1_{rest}" if kind == "attentions" else f"0_{_RESNET.get(rest, rest)}"
