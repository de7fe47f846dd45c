"""The configurations of a U-Net's parts in diffusers' layout. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.models.configs import (
    CHANNELS,
    CLIP,
    FLAG,
    SHARE,
    SMALL,
    VAE,
    Choice,
    Contradictions,
    Names,
    Number,
    PartConfig,
    Rules,
    level_contradictions,
)
from engine.models.part_sizes import Shapes, Sizes, drop_missing, levels, numbers, side

_UNET: Rules = {
    **dict.fromkeys(("in_channels", "out_channels"), CHANNELS),
    "block_out_channels": Number(1, 65536, lists=True),
    "layers_per_block": Number(1, 64, lists=True),
    "cross_attention_dim": Number(1, 65536, lists=True),
    **dict.fromkeys(("attention_head_dim", "num_attention_heads"), Number(1, 65536, lists=True, null=True)),
    **dict.fromkeys(
        ("transformer_layers_per_block", "reverse_transformer_layers_per_block"), Number(1, 1000, lists=True, null=True)
    ),
    "norm_num_groups": Number(1, 65536, null=True),
    "norm_eps": SMALL,
    "dropout": SHARE,
    "sample_size": Number(1, 65536, lists=True, null=True),
    **dict.fromkeys(("addition_time_embed_dim", "time_embedding_dim", "encoder_hid_dim"), Number(1, 65536, null=True)),
    "projection_class_embeddings_input_dim": Number(1, 1_000_000, null=True),
    **dict.fromkeys(("conv_in_kernel", "conv_out_kernel"), Number(1, 15)),
    "downsample_padding": Number(0, 16),
    **dict.fromkeys(("mid_block_scale_factor", "resnet_out_scale_factor"), Number(1e-6, 1e6, integer=False)),
    "freq_shift": Number(-1000, 1000, integer=False),
    **dict.fromkeys(("down_block_types", "up_block_types"), Names()),
    **dict.fromkeys(("flip_sin_to_cos", "use_linear_projection", "center_input_sample", "dual_cross_attention"), FLAG),
    "upcast_attention": Choice((True, False, None)),
}


def _unet(shapes: Shapes) -> Sizes:
    contexts = {shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and len(shape) == 2}
    blocks = numbers(shapes, r"down_blocks\.0\.resnets\.(\d+)\.")
    return drop_missing(
        {
            "in_channels": side(shapes, "conv_in.weight", 1),
            "out_channels": side(shapes, "conv_out.weight", 0),
            "block_out_channels": levels(shapes, ""),
            "layers_per_block": len(blocks) or None,
            "cross_attention_dim": contexts.pop() if len(contexts) == 1 else None,
            "projection_class_embeddings_input_dim": side(shapes, "add_embedding.linear_1.weight", 1),
        }
    )


def _contradictions(config: Mapping[str, Any]) -> Contradictions:
    return level_contradictions(config) or _heads(config, config["block_out_channels"])


def _heads(config: Mapping[str, Any], levels: list[int]) -> list[tuple[str, str]]:
    """Heads of each level of a U-Net, and other values that there may be one of for each."""
    problems = [
        (key, f"must have as many items as block_out_channels ({len(levels)})")
        for key in ("layers_per_block", "cross_attention_dim", "attention_head_dim", "num_attention_heads",
                    "transformer_layers_per_block")
        if isinstance(config.get(key), list) and len(config[key]) != len(levels)
    ]  # fmt: skip
    key = "num_attention_heads" if config.get("num_attention_heads") else "attention_head_dim"
    heads = config[key]
    if problems or heads is None:
        return problems
    each = heads if isinstance(heads, list) else [heads] * len(levels)
    blocks = config.get("down_block_types", [])
    attentive = [str(kind).startswith("CrossAttn") for kind in blocks] or [True] * len(levels)
    pairs = zip(levels, each, attentive, strict=True)
    if any(attention and (not count or width % count) for width, count, attention in pairs):
        return [(key, f"must divide every one of block_out_channels {levels}")]  # diffusers counts heads under it
    return []


UNET = PartConfig(
    _UNET,
    {"in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
     "cross_attention_dim": 1280, "attention_head_dim": 8, "norm_num_groups": 32},
    _unet, _contradictions, has_levels=True,
)  # fmt: skip
CONFIGS = {"unet": UNET, "vae": VAE, "text_encoder": CLIP, "text_encoder_2": CLIP}
"""By part."""
