"""The sizes of a part, from the shapes of its weights, in diffusers' and transformers' names. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
Sizes = dict[str, Any]


def side(shapes: Shapes, name: str, axis: int) -> int | None:
    """A side of a tensor; None where there is no such tensor."""
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) > axis else None


def numbers(shapes: Shapes, pattern: str) -> list[int]:
    """The numbers in the first group of the names that match; each once, in order."""
    return sorted({int(match[1]) for match in map(re.compile(pattern).match, shapes) if match})


def drop_missing(sizes: Mapping[str, Any]) -> Sizes:
    """The sizes that are not None."""
    return {key: size for key, size in sizes.items() if size is not None}


def levels(shapes: Shapes, half: str) -> list[int] | None:
    """Channels of each level; None where a level is missing."""
    widths = [
        side(shapes, f"{half}down_blocks.{level}.resnets.0.conv1.weight", 0)
        for level in numbers(shapes, re.escape(half) + r"down_blocks\.(\d+)\.")
    ]
    return [width for width in widths if width is not None] if widths and None not in widths else None


def vae_sizes(shapes: Shapes) -> Sizes:
    """The sizes of diffusers' autoencoder."""
    blocks = numbers(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\.")
    diffusers = bool(blocks)
    return drop_missing(
        {
            "in_channels": side(shapes, "encoder.conv_in.weight", 1),
            "out_channels": side(shapes, "decoder.conv_out.weight", 0),
            "latent_channels": side(shapes, "decoder.conv_in.weight", 1),
            "block_out_channels": levels(shapes, "encoder."),
            "layers_per_block": len(blocks) or None,
            "use_quant_conv": "quant_conv.weight" in shapes if diffusers else None,
            "use_post_quant_conv": "post_quant_conv.weight" in shapes if diffusers else None,
        }
    )


def clip_sizes(shapes: Shapes) -> Sizes:
    """The sizes of transformers' CLIP text encoder."""
    plain = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    return drop_missing(
        {
            "vocab_size": side(plain, "embeddings.token_embedding.weight", 0),
            "hidden_size": side(plain, "embeddings.token_embedding.weight", 1),
            "max_position_embeddings": side(plain, "embeddings.position_embedding.weight", 0),
            "num_hidden_layers": len(numbers(plain, r"encoder\.layers\.(\d+)\.")) or None,
            "intermediate_size": side(plain, "encoder.layers.0.mlp.fc1.weight", 0),
            "projection_dim": side(shapes, "text_projection.weight", 0),
        }
    )
