"""CLIP text encoders in single files: transformers' own names, and OpenCLIP's. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine.families.unet.names import TEXT, TEXT_SDXL, TEXT_SDXL_2, Shapes

_OPEN_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_OPEN_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def clip_sizes(shapes: Shapes, prefixes: Sequence[str]) -> dict[str, Any]:
    """Sizes of a text encoder with transformers' names behind one of `prefixes`."""
    prefix = next(prefix for prefix in prefixes if any(name.startswith(prefix) for name in shapes))
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


def open_clip_sizes(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """Sizes of a text encoder with OpenCLIP's names behind `prefix`."""
    words, width = shapes[prefix + "token_embedding.weight"]
    front = prefix + "transformer.resblocks."
    layers = {name.removeprefix(front).split(".")[0] for name in shapes if name.startswith(front)}
    return {
        "vocab_size": words,
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "max_position_embeddings": shapes[prefix + "positional_embedding"][0],
        "intermediate_size": shapes[front + "0.mlp.c_fc.weight"][0],
        "num_attention_heads": max(1, width // 64),
        "projection_dim": shapes[prefix + "text_projection"][1],
    }


def open_clip_place(key: str) -> tuple[str, tuple[int, int], bool]:
    """The place of a tensor of transformers' CLIP in OpenCLIP's: (name, (n, of how many row pieces), transposed).

    OpenCLIP keeps q, k and v in one matrix, and its projection the other way round.
    """
    key = key.removeprefix("text_model.")
    if key == "text_projection.weight":
        return "text_projection", (0, 1), True
    if key in _OPEN_ENDS:
        return _OPEN_ENDS[key], (0, 1), False
    _, _, number, rest = key.split(".", 3)
    front = f"transformer.resblocks.{number}."
    for position, letter in enumerate("qkv"):
        if rest.startswith(f"self_attn.{letter}_proj."):
            return f"{front}attn.in_proj_{rest.rpartition('.')[2]}", (position, 3), False
    layer, _, end = rest.rpartition(".")
    return f"{front}{_OPEN_LAYER[layer]}.{end}", (0, 1), False


def text_places(name: str, shape: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """`component`, `path` in transformers and `shape` of a weight of a text encoder in a single file; nothing for
    another weight.

    Args:
        name: in the file, without ".weight"; OpenCLIP's joined q, k and v do not end so and are `in_proj_weight`.
    """
    for prefix in (*TEXT, TEXT_SDXL):
        if name.startswith(prefix):
            yield {"component": "text_encoder", "path": name.removeprefix(prefix)}
            return
    front, dot, rest = name.removeprefix(TEXT_SDXL_2).removeprefix("transformer.resblocks.").partition(".")
    if not (name.startswith(TEXT_SDXL_2) and dot and front.isdecimal()):
        return
    layer = {"component": "text_encoder_2", "shape": shape}
    if rest == "attn.in_proj_weight":
        for letter in "qkv":
            path = f"encoder.layers.{front}.self_attn.{letter}_proj"
            yield {**layer, "path": path, "shape": (shape[0] // 3, *shape[1:]), "bias": True}
    ours = {theirs: own for own, theirs in _OPEN_LAYER.items()}.get(rest)
    if ours is not None:
        yield {**layer, "path": f"encoder.layers.{front}.{ours}"}
