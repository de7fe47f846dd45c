"""The configurations of FLUX's parts in diffusers' layout. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.models.configs import (
    CHANNELS,
    CLIP,
    COUNT,
    FLAG,
    SHARE,
    SMALL,
    TOKEN,
    VAE,
    WIDTH,
    Contradictions,
    Number,
    PartConfig,
    Rules,
)
from engine.models.part_sizes import Shapes, Sizes, drop_missing, numbers, side

_T5: Rules = {
    "vocab_size": Number(1, 10_000_000),
    **dict.fromkeys(("d_model", "d_kv", "num_heads"), WIDTH),
    "d_ff": Number(1, 1_000_000),
    "num_layers": COUNT,
    "relative_attention_num_buckets": WIDTH,
    "relative_attention_max_distance": Number(1, 1_000_000),
    "layer_norm_epsilon": SMALL,
    "dropout_rate": SHARE,
    "initializer_factor": Number(0, 1000, integer=False),
    **dict.fromkeys(("eos_token_id", "pad_token_id", "decoder_start_token_id"), TOKEN),
}
_TRANSFORMER: Rules = {
    "patch_size": Number(1, 64),
    "in_channels": CHANNELS,
    "out_channels": Number(1, 4096, null=True),
    "num_layers": COUNT,
    "num_single_layers": Number(0, 1000),
    **dict.fromkeys(("attention_head_dim", "num_attention_heads"), WIDTH),
    **dict.fromkeys(("joint_attention_dim", "pooled_projection_dim"), WIDTH),
    "axes_dims_rope": Number(2, 65536, lists=True),
    "guidance_embeds": FLAG,
}


def _t5(shapes: Shapes) -> Sizes:
    table = "shared.weight" if "shared.weight" in shapes else "encoder.embed_tokens.weight"
    layer = "encoder.block.0.layer"
    heads = side(shapes, f"{layer}.0.SelfAttention.relative_attention_bias.weight", 1)
    inner = side(shapes, f"{layer}.0.SelfAttention.q.weight", 0)
    return drop_missing(
        {
            "vocab_size": side(shapes, table, 0),
            "d_model": side(shapes, table, 1),
            "num_layers": len(numbers(shapes, r"encoder\.block\.(\d+)\.")) or None,
            "num_heads": heads,
            "d_kv": inner // heads if inner and heads else None,
            "d_ff": side(shapes, f"{layer}.1.DenseReluDense.wi_0.weight", 0),
            "relative_attention_num_buckets": side(
                shapes, f"{layer}.0.SelfAttention.relative_attention_bias.weight", 0
            ),
        }
    )


def _transformer(shapes: Shapes) -> Sizes:
    inner, head = (
        side(shapes, "x_embedder.weight", 0),
        side(shapes, "transformer_blocks.0.attn.norm_q.weight", 0),
    )
    if inner is None:
        return {}  # in Black Forest Labs' names
    return drop_missing(
        {
            "in_channels": side(shapes, "x_embedder.weight", 1),
            "num_layers": len(numbers(shapes, r"transformer_blocks\.(\d+)\.")) or None,
            "num_single_layers": len(numbers(shapes, r"single_transformer_blocks\.(\d+)\.")),
            "attention_head_dim": head,
            "num_attention_heads": inner // head if head else None,
            "joint_attention_dim": side(shapes, "context_embedder.weight", 1),
            "pooled_projection_dim": side(shapes, "time_text_embed.text_embedder.linear_1.weight", 1),
            "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
        }
    )


def _contradictions(config: Mapping[str, Any]) -> Contradictions:
    axes, width = config["axes_dims_rope"], config["attention_head_dim"]
    if not isinstance(axes, list) or any(type(axis) is not int or axis % 2 for axis in axes) or sum(axes) != width:
        return [("axes_dims_rope", f"must be even numbers that add up to attention_head_dim {width}")]
    return []


T5 = PartConfig(
    _T5,
    {"vocab_size": 32128, "d_model": 512, "num_layers": 6, "num_heads": 8, "d_kv": 64, "d_ff": 2048,
     "relative_attention_num_buckets": 32},
    _t5,
)  # fmt: skip
TRANSFORMER = PartConfig(
    _TRANSFORMER,
    {"num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
     "in_channels": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": False,
     "axes_dims_rope": [16, 56, 56]},
    _transformer, _contradictions,
)  # fmt: skip
CONFIGS = {"transformer": TRANSFORMER, "vae": VAE, "text_encoder": CLIP, "text_encoder_2": T5}
"""By part."""
