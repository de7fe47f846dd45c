"""The original (LDM) single-file layout of U-Net and VAE: where each diffusers tensor is, and sizes from the shapes.

Derived from the two architectures: LDM numbers the U-Net's blocks in one row (input_blocks, middle_block,
output_blocks), diffusers by level; the VAE's decoder levels count from the other end. Loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.")
"""Of Stable Diffusion 1.x. The second form is that of files which an early tool wrote without `text_model`."""
TEXT_SDXL, TEXT_SDXL_2 = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_BLOCK = re.compile(r"(?P<half>down|up)_blocks\.(?P<block>\d+)\.(?P<kind>\w+)\.(?P<number>\d+)\.(?P<rest>.+)")


def unet_name(key: str, config: Mapping[str, Any]) -> str:
    """A tensor or module of diffusers' U-Net as a single file names it, without the file's prefix."""
    per_level = int(config["layers_per_block"]) + 1
    match = _BLOCK.fullmatch(key)
    if match is None:
        start = next(name for name in _UNET_ENDS if key.startswith(name + "."))
        rest = key.removeprefix(start + ".")
        return f"{_UNET_ENDS[start]}.{_inside(rest) if 'resnets' in start else rest}"
    block, number, kind, rest = int(match["block"]), int(match["number"]), match["kind"], match["rest"]
    if kind == "downsamplers":
        return f"input_blocks.{per_level * (block + 1)}.0.op{rest.removeprefix('conv')}"
    if kind == "upsamplers":
        place = 2 if "CrossAttn" in config["up_block_types"][block] else 1
        return f"output_blocks.{per_level * (block + 1) - 1}.{place}.{rest}"
    row = per_level * block + number
    front = f"input_blocks.{row + 1}" if match["half"] == "down" else f"output_blocks.{row}"
    return f"{front}.0.{_inside(rest)}" if kind == "resnets" else f"{front}.1.{rest}"


def _inside(rest: str) -> str:
    """A tensor or layer inside one of the U-Net's resnets."""
    layer, dot, end = rest.partition(".")
    return f"{_UNET_RESNET[layer]}{dot}{end}"


def vae_name(key: str, config: Mapping[str, Any]) -> str:
    """A tensor of diffusers' VAE as a single file names it, without the file's prefix."""
    levels = len(config["block_out_channels"])
    half, _, rest = key.partition(".")
    match = _BLOCK.fullmatch(rest)
    if match is not None:
        block = int(match["block"])
        place = f"{half}.down.{block}" if match["half"] == "down" else f"{half}.up.{levels - 1 - block}"
        if match["kind"] == "resnets":
            inner = match["rest"].replace("conv_shortcut", "nin_shortcut")
            return f"{place}.block.{match['number']}.{inner}"
        return f"{place}.{'downsample' if match['half'] == 'down' else 'upsample'}.{match['rest']}"
    if rest.startswith("mid_block.resnets."):
        number, _, inner = rest.removeprefix("mid_block.resnets.").partition(".")
        return f"{half}.mid.block_{int(number) + 1}.{inner}"
    if rest.startswith("mid_block.attentions.0."):
        layer, _, end = rest.removeprefix("mid_block.attentions.0.").rpartition(".")
        return f"{half}.mid.attn_1.{_VAE_ATTENTION[layer]}.{end}"
    return key.replace("conv_norm_out", "norm_out")


def fitted(
    part: str, base: Mapping[str, Any], sizes: Callable[[Shapes], dict[str, Any]], shapes: Shapes
) -> dict[str, Any]:
    """The configuration `base` of a family with the sizes from a file's shapes.

    Raises:
        ModelError: the shapes are not those of this layout.
    """
    try:
        return {**base, **sizes(shapes)}
    except (KeyError, StopIteration, LookupError, ValueError, ArithmeticError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else "tensors are missing"
        raise ModelError(
            f"The {part} in the file is not laid out as in the original Stable Diffusion files: {missing}.",
            "Use another copy of the checkpoint, or its diffusers folder.",
            code="component-wrong-layout",
        ) from error


def unet_sizes(shapes: Shapes) -> dict[str, Any]:
    """Sizes of the U-Net, but for its number of attention heads."""
    downs = sorted(
        int(name.split(".")[3])
        for name in shapes
        if name.startswith(UNET + "input_blocks.") and name.endswith(".0.op.weight")
    )
    per_level = downs[0]
    firsts = [f"{UNET}input_blocks.{per_level * level + 1}" for level in range(len(downs) + 1)]
    channels = [shapes[f"{first}.0.out_layers.3.weight"][0] for first in firsts]
    attentive = [f"{first}.1.proj_in.weight" in shapes for first in firsts]
    stem = shapes[UNET + "input_blocks.0.0.weight"]
    context = next(shape[1] for name, shape in shapes.items() if name.startswith(UNET) and "attn2.to_k" in name)
    return {
        "block_out_channels": channels,
        "layers_per_block": per_level - 1,
        "cross_attention_dim": context,
        "in_channels": stem[1],
        "out_channels": shapes[UNET + "out.2.weight"][0],
        "down_block_types": ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attentive],
        "up_block_types": ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attentive)],
    }


def transformer_depths(shapes: Shapes) -> list[int]:
    """Transformer blocks in each attention of a level of the U-Net; 1 where a level has none."""
    channels = unet_sizes(shapes)["block_out_channels"]
    per_level = int(unet_sizes(shapes)["layers_per_block"]) + 1
    depths = []
    for level in range(len(channels)):
        front = f"{UNET}input_blocks.{per_level * level + 1}.1.transformer_blocks."
        numbers = {name.removeprefix(front).split(".")[0] for name in shapes if name.startswith(front)}
        depths.append(max(1, len(numbers)))
    return depths


def vae_sizes(shapes: Shapes) -> dict[str, Any]:
    """Sizes of the VAE."""
    pattern = re.compile(re.escape(VAE) + r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight")
    blocks = [tuple(map(int, match.groups())) for match in map(pattern.fullmatch, shapes) if match]
    levels = 1 + max((level for level, _ in blocks), default=-1)
    return {
        "block_out_channels": [shapes[f"{VAE}encoder.down.{n}.block.0.conv1.weight"][0] for n in range(levels)],
        "layers_per_block": 1 + max((number for _, number in blocks), default=0),
        "latent_channels": shapes[VAE + "post_quant_conv.weight"][0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def multiples(vae_levels: int, unet_levels: int) -> tuple[int, int]:
    """(`Recognition.downscale`, `Recognition.multiple`): every level but the last halves the size; 0 is unknown."""
    halvings = (vae_levels or 4) - 1
    return 2**halvings, 2 ** (halvings + (unet_levels or 4) - 1)


def levels_of_file(shapes: Shapes) -> tuple[int, int]:
    """(levels of the VAE, levels of the U-Net) in a single file."""
    inputs = [name for name in shapes if name.startswith(UNET + "input_blocks.")]
    unet_levels = 1 + sum(name.endswith(".0.op.weight") for name in inputs)
    return len({name.split(".")[3] for name in shapes if name.startswith(VAE + "encoder.down.")}), unet_levels


_ROWS = ("input_blocks", "middle_block", "output_blocks")


def sdxl_kohya_name(path: str, config: Mapping[str, Any]) -> str:
    """ "lora_unet_input_blocks_4_1_proj_in" for diffusers' "down_blocks.1.attentions.0.proj_in"."""
    return "lora_unet_" + unet_name(path, config).replace(".", "_")


def sdxl_place(path: str, config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Where a layer of SDXL's U-Net comes in Kohya's order: row of blocks, block, part of the block."""
    row, *numbers = unet_name(path, config).split(".")[:3]
    if row == "middle_block":
        return 1, 0, int(numbers[0])
    return _ROWS.index(row), int(numbers[0]), int(numbers[1])
