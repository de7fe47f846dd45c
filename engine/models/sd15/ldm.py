"""The original (LDM) single-file layout: where each diffusers tensor stands in it, and the sizes its shapes tell.

Derived from the two architectures: LDM numbers the UNet's blocks in one row (input_blocks, middle_block,
output_blocks), diffusers by level; the VAE's decoder levels count from the other end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine.errors import ModelError
from engine.models.sd15.detect import TEXT, UNET, VAE

Shapes = Mapping[str, tuple[int, ...]]

_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
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


def ldm_names(part: str, keys: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """diffusers' tensor names of one part ("unet", "vae", "text_encoder") to their names in a single file.

    Args:
        keys: names as `state_dict()` of the diffusers or transformers module gives them.
        config: the part's configuration.
    """
    if part == "text_encoder":
        return {key: TEXT[0] + key.removeprefix("text_model.") for key in keys}
    if part == "unet":
        return {key: UNET + _unet_name(key, config) for key in keys}
    levels = len(config["block_out_channels"])
    return {key: VAE + _vae_name(key, levels) for key in keys}


def _unet_name(key: str, config: Mapping[str, Any]) -> str:
    per_level = int(config["layers_per_block"]) + 1
    found = _BLOCK.fullmatch(key)
    if found is None:
        start = next(name for name in _UNET_ENDS if key.startswith(name + "."))
        rest = key.removeprefix(start + ".")
        return f"{_UNET_ENDS[start]}.{_inside(rest) if 'resnets' in start else rest}"
    block, number, kind, rest = int(found["block"]), int(found["number"]), found["kind"], found["rest"]
    if kind == "downsamplers":
        return f"input_blocks.{per_level * (block + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        place = 2 if "CrossAttn" in config["up_block_types"][block] else 1
        return f"output_blocks.{per_level * (block + 1) - 1}.{place}.{rest}"
    row = per_level * block + number
    front = f"input_blocks.{row + 1}" if found["half"] == "down" else f"output_blocks.{row}"
    return f"{front}.0.{_inside(rest)}" if kind == "resnets" else f"{front}.1.{rest}"


def _inside(rest: str) -> str:
    """A tensor inside one of the UNet's resnets."""
    layer, _, end = rest.partition(".")
    return f"{_UNET_RESNET[layer]}.{end}"


def _vae_name(key: str, levels: int) -> str:
    half, _, rest = key.partition(".")
    found = _BLOCK.fullmatch(rest)
    if found is not None:
        block = int(found["block"])
        place = f"{half}.down.{block}" if found["half"] == "down" else f"{half}.up.{levels - 1 - block}"
        if found["kind"] == "resnets":
            return f"{place}.block.{found['number']}.{found['rest'].replace('conv_shortcut', 'nin_shortcut')}"
        return f"{place}.{found['kind'].removesuffix('rs')}.{found['rest']}"
    if rest.startswith("mid_block.resnets."):
        _, _, number, inner = rest.split(".", 3)
        return f"{half}.mid.block_{int(number) + 1}.{inner}"
    if rest.startswith("mid_block.attentions.0."):
        layer, _, end = rest.removeprefix("mid_block.attentions.0.").rpartition(".")
        return f"{half}.mid.attn_1.{_VAE_ATTENTION[layer]}.{end}"
    return f"{half}.{rest.replace('conv_norm_out', 'norm_out')}"


def fitted(part: str, base: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The configuration `base` of Stable Diffusion 1.5 with the sizes that a file's shapes tell.

    What shapes do not tell (number of attention heads, groups of a norm, scaling factor) stays.

    Raises:
        ModelError: the shapes are not those of this layout.
    """
    try:
        sizes = {"unet": _unet_sizes, "vae": _vae_sizes, "text_encoder": _text_sizes}[part](shapes)
    except (KeyError, StopIteration, IndexError, ZeroDivisionError) as error:
        raise ModelError(
            f"The {part} in the file is not laid out as Stable Diffusion 1.x: {error} is missing.",
            "Use another copy of the checkpoint, or its diffusers folder.",
        ) from error
    return {**base, **sizes}


def _unet_sizes(shapes: Shapes) -> dict[str, Any]:
    downs = sorted(
        int(name.split(".")[3])
        for name in shapes
        if name.startswith(UNET + "input_blocks.") and name.endswith(".0.op.weight")
    )
    per_level = downs[0]
    firsts = [f"{UNET}input_blocks.{per_level * level + 1}" for level in range(len(downs) + 1)]
    channels = [shapes[f"{first}.0.out_layers.3.weight"][0] for first in firsts]
    attends = [f"{first}.1.proj_in.weight" in shapes for first in firsts]
    stem = shapes[UNET + "input_blocks.0.0.weight"]
    context = next(shape[1] for name, shape in shapes.items() if name.startswith(UNET) and "attn2.to_k" in name)
    return {
        "block_out_channels": channels,
        "layers_per_block": per_level - 1,
        "cross_attention_dim": context,
        "in_channels": stem[1],
        "out_channels": shapes[UNET + "out.2.weight"][0],
        "down_block_types": ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)],
    }


def _vae_sizes(shapes: Shapes) -> dict[str, Any]:
    found = re.compile(re.escape(VAE) + r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight")
    blocks = [tuple(map(int, match.groups())) for match in map(found.fullmatch, shapes) if match]
    levels = 1 + max((level for level, _ in blocks), default=-1)
    return {
        "block_out_channels": [shapes[f"{VAE}encoder.down.{n}.block.0.conv1.weight"][0] for n in range(levels)],
        "layers_per_block": 1 + max((number for _, number in blocks), default=0),
        "latent_channels": shapes[VAE + "post_quant_conv.weight"][0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _text_sizes(shapes: Shapes) -> dict[str, Any]:
    prefix = next(prefix for prefix in TEXT if any(name.startswith(prefix) for name in shapes))
    words, width = shapes[prefix + "embeddings.token_embedding.weight"]
    layers = {name.removeprefix(prefix).split(".")[2] for name in shapes if name.startswith(prefix + "encoder.layers.")}
    return {
        "vocab_size": words,
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "max_position_embeddings": shapes[prefix + "embeddings.position_embedding.weight"][0],
        "intermediate_size": shapes[prefix + "encoder.layers.0.mlp.fc1.weight"][0],
        "num_attention_heads": max(1, width // 64),
        "projection_dim": width,
    }
