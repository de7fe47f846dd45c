"""Kohya's names of the UNet's layers in SDXL: those of the original files (sgm)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.models.ldm.names import unet_name

_ROWS = ("input_blocks", "middle_block", "output_blocks")


def kohya_name(path: str, config: Mapping[str, Any]) -> str:
    """ "lora_unet_input_blocks_4_1_proj_in" for diffusers' "down_blocks.1.attentions.0.proj_in"."""
    return "lora_unet_" + unet_name(path, config).replace(".", "_")


def place(path: str, config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Where a layer comes in Kohya's order: row of blocks, block, part of the block."""
    row, *numbers = unet_name(path, config).split(".")[:3]
    if row == "middle_block":
        return 1, 0, int(numbers[0])
    return _ROWS.index(row), int(numbers[0]), int(numbers[1])
