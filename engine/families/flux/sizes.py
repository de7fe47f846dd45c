"""The sizes of FLUX's parts from the shapes in a file; the rest is as in the shipped configurations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import ModelError
from engine.families.flux.names import block_numbers

Shapes = Mapping[str, tuple[int, ...]]


def fitted(part: str, base: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The configuration `base` with the sizes from the shapes of one part's tensors.

    Args:
        part: "transformer", "vae", "text_encoder" or "text_encoder_2".
        shapes: by the names of the part's own layout, without a prefix.

    Raises:
        ModelError: the shapes are not those of the layout.
    """
    sizes_by_part: dict[str, Callable[[Shapes], dict[str, Any]]] = {
        "transformer": _transformer,
        "vae": _vae,
        "text_encoder": _clip,
        "text_encoder_2": _t5,
    }
    try:
        return {**base, **sizes_by_part[part](shapes)}
    except (LookupError, ValueError, ArithmeticError) as error:
        fault = f"{error} is missing" if isinstance(error, KeyError) else "tensors are missing"
        raise ModelError(
            f"The {part} is not laid out as FLUX's: {fault}, or have another shape.",
            "Use another copy of the file.",
            code="component-wrong-layout",
        ) from error


def _transformer(shapes: Shapes) -> dict[str, Any]:
    bfl = "img_in.weight" in shapes
    inner, channels = shapes["img_in.weight" if bfl else "x_embedder.weight"]
    head = shapes[
        "double_blocks.0.img_attn.norm.query_norm.scale" if bfl else "transformer_blocks.0.attn.norm_q.weight"
    ]
    guidance = "guidance_in.in_layer.weight" if bfl else "time_text_embed.guidance_embedder.linear_1.weight"
    return {
        "num_layers": block_numbers(shapes, "double_blocks." if bfl else "transformer_blocks."),
        "num_single_layers": block_numbers(shapes, "single_blocks." if bfl else "single_transformer_blocks."),
        "attention_head_dim": head[0],
        "num_attention_heads": inner // head[0],
        "in_channels": channels,
        "joint_attention_dim": shapes["txt_in.weight" if bfl else "context_embedder.weight"][1],
        "pooled_projection_dim": shapes[
            "vector_in.in_layer.weight" if bfl else "time_text_embed.text_embedder.linear_1.weight"
        ][1],
        "guidance_embeds": guidance in shapes,
        "axes_dims_rope": _axes(head[0]),
    }


def _axes(head: int) -> list[int]:
    """How the numbers of a head are shared between FLUX's three position axes: 16, 56, 56 of 128."""
    first = head // 8
    return [first, (head - first) // 2, (head - first) // 2]


def _vae(shapes: Shapes) -> dict[str, Any]:
    bfl = any(name.startswith("encoder.down.") for name in shapes)
    level = re.compile(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight")
    if not bfl:
        level = re.compile(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight")
    block_channels = {
        (int(match[1]), int(match[2])): shapes[match[0]][0] for match in map(level.fullmatch, shapes) if match
    }
    levels = 1 + max(number for number, _ in block_channels) if block_channels else 0
    return {
        "block_out_channels": [block_channels[number, 0] for number in range(levels)],
        "layers_per_block": 1 + max(number for _, number in block_channels) if block_channels else 0,
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def _clip(shapes: Shapes) -> dict[str, Any]:
    plain = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    words, width = plain["embeddings.token_embedding.weight"]
    return {
        "vocab_size": words,
        "hidden_size": width,
        "num_hidden_layers": block_numbers(plain, "encoder.layers."),
        "max_position_embeddings": plain["embeddings.position_embedding.weight"][0],
        "intermediate_size": plain["encoder.layers.0.mlp.fc1.weight"][0],
        "num_attention_heads": max(1, width // 64),
        "projection_dim": width,
    }


def _t5(shapes: Shapes) -> dict[str, Any]:
    words, width = shapes["shared.weight" if "shared.weight" in shapes else "encoder.embed_tokens.weight"]
    layer = "encoder.block.0.layer"
    buckets, heads = shapes[f"{layer}.0.SelfAttention.relative_attention_bias.weight"]
    return {
        "vocab_size": words,
        "d_model": width,
        "num_layers": block_numbers(shapes, "encoder.block."),
        "num_heads": heads,
        "d_kv": shapes[f"{layer}.0.SelfAttention.q.weight"][0] // heads,
        "d_ff": shapes[f"{layer}.1.DenseReluDense.wi_0.weight"][0],
        "relative_attention_num_buckets": buckets,
    }
