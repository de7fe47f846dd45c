"""The blocks of a U-Net in Kohya's lists, and the parts that LyCORIS' presets distinguish. Loads no torch.

Facts: sd-scripts `networks/lora.py`, get_block_index; LyCORIS `config.py`.
"""

from __future__ import annotations

import re

from engine.families.spec import BlockLists, LayerMap

_UP_OR_DOWN = re.compile(r"lora_unet_(down|up)_blocks_(\d+)_(resnets|attentions|downsamplers|upsamplers)_(\d+)_")
_ROWS = (("input_blocks_", 1), ("middle_block_", 10), ("output_blocks_", 13))
_SD15_ROW, _SDXL_LAST = 12, 22


def sd15_block(name: str) -> int | None:
    """Of 25: 12 down, 1 in the middle, 12 up. Each level has three, of which the sampler is the last."""
    if match := _UP_OR_DOWN.match(name):
        inside = 2 if match[3].endswith("samplers") else int(match[4])
        row = 3 * int(match[2]) + inside
        return row + 1 + (_SD15_ROW if match[1] == "up" else 0)
    return _SD15_ROW if name.startswith("lora_unet_mid_block_") else None


def sdxl_block(name: str) -> int | None:
    """Of 23: embeddings, 9 input, 3 middle, 9 output blocks, the last layer."""
    path = name.removeprefix("lora_unet_")
    if path == name:
        return None
    if path.startswith(("time_embed_", "label_emb_")):
        return 0
    if path.startswith("out_"):
        return _SDXL_LAST
    for start, first in _ROWS:
        if path.startswith(start):
            return first + int(path.removeprefix(start).partition("_")[0])
    return None


SD15_BLOCKS = BlockLists(down=12, middle=1, up=12, ends=False, index=sd15_block)
SDXL_BLOCKS = BlockLists(down=9, middle=3, up=9, ends=True, index=sdxl_block)
SDXL_PARTS = {
    "transformer": r"attentions\.",
    "attention": r"attentions\..*\.attn\d\.",
    "resnet": r"resnets\.",
    "sampler": r"samplers\.",
    "values": r"\.(to_k|to_v|ff\.net\.2)$",
}
"""LyCORIS finds the layers outside the blocks by diffusers' names, which Kohya's scripts have for SD 1.5 only."""
SD15_PARTS = {**SDXL_PARTS, "convolution": r"^conv_(in|out)$", "time": r"^time_embedding\."}
OUTSIDE = ("conv_in", "time_embedding.linear_1", "time_embedding.linear_2", "conv_out")
"""The layers of SD 1.5 outside the blocks that a preset of LyCORIS can train."""
WIDE = r"(\.conv1|\.conv2|samplers\.0\.conv|^conv_in|^conv_out)$"
LAYER_MAP = LayerMap(
    columns={},
    rows={
        "attention": r"attentions\..*(\.attn\d\.|\.proj_(in|out)$)",
        "MLP": r"attentions\..*\.ff\.",
        "norms": r"norm",
        "convolutions": r"resnets\.\d+\.conv\d$|samplers\.|^conv_(in|out)$",
        "rest of resnets": r"resnets\.",
        "embeddings": r"embedding\.",
    },
)
