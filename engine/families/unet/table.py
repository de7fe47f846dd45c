"""Kohya's module names for Stable Diffusion 1.x and SDXL, and both ways to number a U-Net's blocks (facts §5.3, §5.4).

Kohya names the layers of SD1.5 as diffusers does, SDXL's as the original files do. Loads no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from typing_extensions import override

from engine.families.module_table import ModuleTable, clip_names
from engine.families.unet.blocks import OUTSIDE

_BLOCK = re.compile(r"lora_unet_(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)")
_MIDDLE = re.compile(r"lora_unet_mid_block_(attentions|resnets)_(\d+)_(.+)")
_SAMPLER = re.compile(r"lora_unet_(down|up)_blocks_(\d+)_(?:down|up)samplers_0_conv")
_RESNET = {"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1"}
_RESNET |= {"conv_shortcut": "skip_connection", "norm1": "in_layers_0", "norm2": "out_layers_0"}
_ENDS = {
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
    **{f"time_embedding_linear_{number}": f"time_embed_{2 * number - 2}" for number in (1, 2)},
    **{f"add_embedding_linear_{number}": f"label_emb_0_{2 * number - 2}" for number in (1, 2)},
}
"""The U-Net's layers outside its blocks, in diffusers' and in the original names. LyCORIS trains them too."""


@dataclass(frozen=True)
class UNetTable(ModuleTable):
    """The modules of a U-Net; blocks may be numbered as in diffusers or as in the original files."""

    attending: tuple[bool, ...] = ()
    """Whether each up block has attention."""

    @cached_property
    def _aliases(self) -> dict[str, str]:
        """Every name of a module that readers accept, to its name in this table, or to itself if it has none there."""
        own = dict.fromkeys(self.outside, "") | {name: name for name in self.names}
        for ours, original in _ENDS.items():
            names = (f"lora_unet_{ours}", f"lora_unet_{original}")
            own |= dict.fromkeys(names, names[0] if names[0] in self.outside else "")
        own = {as_original(name, self.attending): target for name, target in own.items()} | own
        return {name: target or name for name, target in own.items()}

    @override
    def resolve(self, name: str) -> str | None:
        return self._aliases.get(name) or self._aliases.get(as_original(name, self.attending))


def as_original(name: str, attending: tuple[bool, ...]) -> str:
    """A layer of a U-Net with two resnets a level, in the original files' names if it is in diffusers'.

    Args:
        name: "lora_unet_down_blocks_1_attentions_0_proj_in".
        attending: see `UNetTable.attending`.
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


_INPUT = re.compile(r"input_blocks_(\d+)_([01])_(.+)")
_OUTPUT = re.compile(r"output_blocks_(\d+)_([012])_(.+)")
_CENTRE = re.compile(r"middle_block_([012])_(.+)")
_FROM_RESNET = {original: ours for ours, original in _RESNET.items()}
_FROM_ENDS = {original: ours for ours, original in _ENDS.items()}


def as_diffusers(name: str, per_level: int = 3) -> str:
    """The inverse of `as_original`: the layer in diffusers' names if it is in the original files'.

    Args:
        name: "lora_unet_input_blocks_4_1_proj_in".
        per_level: blocks of a level in the original names: two resnets and a sampler in every released model.
    """
    path = name.removeprefix("lora_unet_")
    if path in _FROM_ENDS:
        return f"lora_unet_{_FROM_ENDS[path]}"
    if match := _CENTRE.fullmatch(path):
        number, rest = int(match[1]), match[2]
        inside = f"attentions_0_{rest}" if number == 1 else f"resnets_{number // 2}_{_FROM_RESNET.get(rest, rest)}"
        return f"lora_unet_mid_block_{inside}"
    if match := _INPUT.fullmatch(path):
        number, rest = int(match[1]), match[3]
        if rest == "op":
            return f"lora_unet_down_blocks_{number // per_level - 1}_downsamplers_0_conv"
        level, place = divmod(number - 1, per_level)
        return f"lora_unet_down_blocks_{level}_{_within(match[2], place, rest)}"
    if match := _OUTPUT.fullmatch(path):
        number, rest = int(match[1]), match[3]
        if rest == "conv":
            return f"lora_unet_up_blocks_{number // per_level}_upsamplers_0_conv"
        level, place = divmod(number, per_level)
        return f"lora_unet_up_blocks_{level}_{_within(match[2], place, rest)}"
    return name


def _within(kind: str, number: int, rest: str) -> str:
    return f"attentions_{number}_{rest}" if kind == "1" else f"resnets_{number}_{_FROM_RESNET.get(rest, rest)}"


def sd15_names() -> list[str]:
    """The 192 modules of the U-Net's attention."""
    blocks = [f"lora_unet_down_blocks_{block}_attentions_{number}" for block in range(3) for number in range(2)]
    blocks += ["lora_unet_mid_block_attentions_0"]
    blocks += [f"lora_unet_up_blocks_{block}_attentions_{number}" for block in range(1, 4) for number in range(3)]
    inside = [f"attn{number}_to_{part}" for number in (1, 2) for part in ("q", "k", "v", "out_0")]
    inside = [f"transformer_blocks_0_{part}" for part in [*inside, "ff_net_0_proj", "ff_net_2"]]
    return [f"{block}_{part}" for block in blocks for part in ["proj_in", *inside, "proj_out"]]


def sd15_convolutions() -> list[str]:
    """The 86 modules of the U-Net that are added with convolutions."""
    names = []
    widths = {"down": (320, 640, 1280, 1280), "up": (1280, 1280, 640, 320)}
    for half, count in (("down", 2), ("up", 3)):
        before = 320 if half == "down" else 1280
        for block, width in enumerate(widths[half]):
            for number in range(count):
                resnet = f"lora_unet_{half}_blocks_{block}_resnets_{number}"
                names += [f"{resnet}_{part}" for part in ("conv1", "time_emb_proj", "conv2")]
                if half == "up" or (number == 0 and width != before):  # up blocks take the skip connection in
                    names.append(f"{resnet}_conv_shortcut")
            before = width
            if block < 3:
                names.append(f"lora_unet_{half}_blocks_{block}_{half}samplers_0_conv")
    middle = [f"lora_unet_mid_block_resnets_{number}" for number in range(2)]
    return names + [f"{resnet}_{part}" for resnet in middle for part in ("conv1", "time_emb_proj", "conv2")]


_ATTENTIONS = (("input_blocks_4", 2), ("input_blocks_5", 2), ("input_blocks_7", 10), ("input_blocks_8", 10),
               ("middle_block", 10), ("output_blocks_0", 10), ("output_blocks_1", 10), ("output_blocks_2", 10),
               ("output_blocks_3", 2), ("output_blocks_4", 2), ("output_blocks_5", 2))  # fmt: skip
"""Blocks with an attention, and its transformer blocks."""


def sdxl_names() -> list[str]:
    """The 722 modules of the U-Net's attention."""
    inside = [f"attn1_to_{part}" for part in ("q", "k", "v", "out_0")] + ["ff_net_0_proj", "ff_net_2"]
    inside += [f"attn2_to_{part}" for part in ("q", "k", "v", "out_0")]
    names = []
    for block, depth in _ATTENTIONS:
        front = f"lora_unet_{block}_1"
        blocks = [f"{front}_transformer_blocks_{number}_{part}" for number in range(depth) for part in inside]
        names += [f"{front}_proj_in", *blocks, f"{front}_proj_out"]
    return names


def sdxl_convolutions() -> list[str]:
    """The 66 modules of the U-Net that are added with convolutions."""
    resnets = [f"input_blocks_{number}_0" for number in (1, 2, 4, 5, 7, 8)] + ["middle_block_0", "middle_block_2"]
    resnets += [f"output_blocks_{number}_0" for number in range(9)]
    names = [f"{front}_{layer}" for front in resnets for layer in ("in_layers_2", "emb_layers_1", "out_layers_3")]
    skips = ["input_blocks_4_0", "input_blocks_7_0", *(f"output_blocks_{number}_0" for number in range(9))]
    names += [f"{front}_skip_connection" for front in skips]
    names += ["input_blocks_3_0_op", "input_blocks_6_0_op", "output_blocks_2_2_conv", "output_blocks_5_2_conv"]
    return [f"lora_unet_{name}" for name in names]


SD15_TABLE = UNetTable(
    {"U-Net": tuple(sd15_names()), "text encoder": tuple(clip_names("lora_te_", 12))},
    tuple(sd15_convolutions()),
    outside=tuple(f"lora_unet_{path.replace('.', '_')}" for path in OUTSIDE),
    attending=(False, True, True, True),
)
SDXL_TABLE = UNetTable(
    {
        "U-Net": tuple(sdxl_names()),
        "text encoder 1": tuple(clip_names("lora_te1_", 12)),
        "text encoder 2": tuple(clip_names("lora_te2_", 32)),
    },
    tuple(sdxl_convolutions()),
    outside=("lora_te2_text_projection",),
    attending=(True, True, False),
)
