"""The layout of Black Forest Labs' files: where each tensor of diffusers' transformer is in them.

Derived from the two architectures: BFL has one matrix for query, key and value, and in single blocks the MLP's first
layer in the same matrix; diffusers has a layer for each. BFL's last modulation gives shift then scale, diffusers'
scale then shift.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

ENDS = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
"""Layers of diffusers outside the blocks, and BFL's names for them."""
DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
"""Layers of a double block in BFL's files, in Kohya's order, to diffusers' layers whose outputs are their rows."""
SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
"""The same for a single block."""
_DOUBLE_NORMS = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
_SINGLE_NORMS = {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}
_BLOCK = re.compile(r"(single_)?transformer_blocks\.(\d+)\.(.+)")


def layers_of(kind: str) -> Mapping[str, tuple[str, ...]]:
    """`DOUBLE` or `SINGLE` by the first part of a name, "double_blocks" or "single_blocks"."""
    return DOUBLE if kind == "double_blocks" else SINGLE


def bfl_place(key: str, width: int) -> tuple[str, slice | None, bool]:
    """The place of a tensor of diffusers' transformer in BFL's file.

    Args:
        key: its name in `state_dict()`.
        width: of the transformer's states: the rows of query, key and value.

    Returns:
        Its name there; its rows, if that tensor fuses several of diffusers'; whether its halves are swapped.
    """
    stem, _, end = key.rpartition(".")
    match = _BLOCK.fullmatch(stem)
    if match is None:
        return f"{ENDS[stem]}.{end}", None, stem == "norm_out.linear"
    kind = "single_blocks" if match[1] else "double_blocks"
    block, inside = f"{kind}.{match[2]}", match[3]
    norms = _SINGLE_NORMS if match[1] else _DOUBLE_NORMS
    if inside in norms:
        return f"{block}.{norms[inside]}.scale", None, False
    name, members = next((name, members) for name, members in layers_of(kind).items() if inside in members)
    rows = None
    if len(members) > 1:
        first = members.index(inside) * width
        rows = slice(first, None if inside == "proj_mlp" else first + width)
    return f"{block}.{name}.{end}", rows, False


def block_numbers(names: Iterable[str], kind: str) -> int:
    """How many blocks of a kind ("double_blocks.", "transformer_blocks.") the names go through."""
    return 1 + max((int(name.removeprefix(kind).split(".")[0]) for name in names if name.startswith(kind)), default=-1)
