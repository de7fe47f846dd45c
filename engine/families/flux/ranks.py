"""Which layers of FLUX get which rank, by Kohya's settings for this family (facts: sd-scripts `networks/lora_flux.py`).
Loads no torch."""

from __future__ import annotations

import re

from engine.config import block_values
from engine.config.flux import DOUBLE_BLOCKS, IN_LAYERS, SINGLE_BLOCKS, FluxTable

_BLOCK = re.compile(r"lora_unet_(double|single)_blocks_(\d+)_")
_KINDS = (
    ("img_attn_dim", r"img_attn"),
    ("txt_attn_dim", r"txt_attn"),
    ("img_mlp_dim", r"img_mlp"),
    ("txt_mlp_dim", r"txt_mlp"),
    ("img_mod_dim", r"img_mod"),
    ("txt_mod_dim", r"txt_mod"),
    ("single_dim", r"single_blocks_.*linear"),
    ("single_mod_dim", r"modulation"),
)
"""Settings and the layers whose rank they are, in the order in which the scripts look for them."""


def excludes_layer(table: FluxTable, layer: str) -> bool:
    """Whether a layer is in a block of the kind that `train_blocks` leaves out."""
    match = _BLOCK.match(layer)
    return match is not None and table.train_blocks not in ("all", match[1])


def layer_rank(table: FluxTable, layer: str) -> int | None:
    """The rank of a layer; 0: none, None: the settings do not say.

    Args:
        layer: Kohya's name.
    """
    match = _BLOCK.match(layer)
    if match is None:
        return _before_blocks(table, layer)
    rank = next(
        (rank for key, pattern in _KINDS if (rank := getattr(table, key)) is not None and re.search(pattern, layer)),
        None,
    )
    text, count = table.train_double_block_indices, DOUBLE_BLOCKS
    if match[1] == "single":
        text, count = table.train_single_block_indices, SINGLE_BLOCKS
    return rank if int(match[2]) in block_values.selected(text, count) else 0


def _before_blocks(table: FluxTable, layer: str) -> int | None:
    place = next((place for place, name in enumerate(IN_LAYERS) if layer.startswith(f"lora_unet_{name}")), None)
    if place is None or table.in_dims is None:
        return None
    return block_values.ranks(table.in_dims)[place]
