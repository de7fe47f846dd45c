"""The sizes of a part in diffusers' and transformers' names, as the shapes of its weights tell them. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
Sizes = dict[str, Any]


def _side(shapes: Shapes, name: str, axis: int) -> int | None:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis else None


def _numbers(shapes: Shapes, pattern: str) -> list[int]:
    """The numbers in the first group of the names that match; each once, in order."""
    return sorted({int(match[1]) for match in map(re.compile(pattern).match, shapes) if match})


def _known(sizes: Mapping[str, Any]) -> Sizes:
    """Those that the shapes tell."""
    return {key: size for key, size in sizes.items() if size is not None}


def _levels(shapes: Shapes, half: str) -> list[int] | None:
    """Channels of each level; None where a level is missing."""
    found = [
        _side(shapes, f"{half}down_blocks.{level}.resnets.0.conv1.weight", 0)
        for level in _numbers(shapes, re.escape(half) + r"down_blocks\.(\d+)\.")
    ]
    return [width for width in found if width is not None] if found and None not in found else None


def _unet(shapes: Shapes) -> Sizes:
    contexts = {shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and len(shape) == 2}
    blocks = _numbers(shapes, r"down_blocks\.0\.resnets\.(\d+)\.")
    return _known(
        {
            "in_channels": _side(shapes, "conv_in.weight", 1),
            "out_channels": _side(shapes, "conv_out.weight", 0),
            "block_out_channels": _levels(shapes, ""),
            "layers_per_block": len(blocks) or None,
            "cross_attention_dim": contexts.pop() if len(contexts) == 1 else None,
            "projection_class_embeddings_input_dim": _side(shapes, "add_embedding.linear_1.weight", 1),
        }
    )


def _vae(shapes: Shapes) -> Sizes:
    blocks = _numbers(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\.")
    diffusers = bool(blocks)
    return _known(
        {
            "in_channels": _side(shapes, "encoder.conv_in.weight", 1),
            "out_channels": _side(shapes, "decoder.conv_out.weight", 0),
            "latent_channels": _side(shapes, "decoder.conv_in.weight", 1),
            "block_out_channels": _levels(shapes, "encoder."),
            "layers_per_block": len(blocks) or None,
            "use_quant_conv": "quant_conv.weight" in shapes if diffusers else None,
            "use_post_quant_conv": "post_quant_conv.weight" in shapes if diffusers else None,
        }
    )


def _clip(shapes: Shapes) -> Sizes:
    plain = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    return _known(
        {
            "vocab_size": _side(plain, "embeddings.token_embedding.weight", 0),
            "hidden_size": _side(plain, "embeddings.token_embedding.weight", 1),
            "max_position_embeddings": _side(plain, "embeddings.position_embedding.weight", 0),
            "num_hidden_layers": len(_numbers(plain, r"encoder\.layers\.(\d+)\.")) or None,
            "intermediate_size": _side(plain, "encoder.layers.0.mlp.fc1.weight", 0),
            "projection_dim": _side(shapes, "text_projection.weight", 0),
        }
    )


def _t5(shapes: Shapes) -> Sizes:
    table = "shared.weight" if "shared.weight" in shapes else "encoder.embed_tokens.weight"
    layer = "encoder.block.0.layer"
    heads = _side(shapes, f"{layer}.0.SelfAttention.relative_attention_bias.weight", 1)
    inner = _side(shapes, f"{layer}.0.SelfAttention.q.weight", 0)
    return _known(
        {
            "vocab_size": _side(shapes, table, 0),
            "d_model": _side(shapes, table, 1),
            "num_layers": len(_numbers(shapes, r"encoder\.block\.(\d+)\.")) or None,
            "num_heads": heads,
            "d_kv": inner // heads if inner and heads else None,
            "d_ff": _side(shapes, f"{layer}.1.DenseReluDense.wi_0.weight", 0),
            "relative_attention_num_buckets": _side(
                shapes, f"{layer}.0.SelfAttention.relative_attention_bias.weight", 0
            ),
        }
    )


def _transformer(shapes: Shapes) -> Sizes:
    inner, head = (
        _side(shapes, "x_embedder.weight", 0),
        _side(shapes, "transformer_blocks.0.attn.norm_q.weight", 0),
    )
    if inner is None:
        return {}  # in Black Forest Labs' names
    return _known(
        {
            "in_channels": _side(shapes, "x_embedder.weight", 1),
            "num_layers": len(_numbers(shapes, r"transformer_blocks\.(\d+)\.")) or None,
            "num_single_layers": len(_numbers(shapes, r"single_transformer_blocks\.(\d+)\.")),
            "attention_head_dim": head,
            "num_attention_heads": inner // head if head else None,
            "joint_attention_dim": _side(shapes, "context_embedder.weight", 1),
            "pooled_projection_dim": _side(shapes, "time_text_embed.text_embedder.linear_1.weight", 1),
            "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
        }
    )


SIZES: Mapping[str, Callable[[Shapes], Sizes]] = {
    "unet": _unet,
    "vae": _vae,
    "text_encoder": _clip,
    "text_encoder_2": _clip,
    "t5": _t5,
    "transformer": _transformer,
}
"""By what `engine.models.configs.read_config` calls a part; keys as in its configuration."""
