"""Which layers take a LoRA, and their names in Kohya's files."""

from __future__ import annotations

import re
from itertools import groupby

from torch import nn

from engine.models.base import LoraTarget

ATTENTION = {"Transformer2DModel"}
CONVOLUTION = {"ResnetBlock2D", "Downsample2D", "Upsample2D"}
TEXT = {"CLIPAttention", "CLIPMLP"}


def lora_targets(text_encoder: nn.Module, unet: nn.Module, *, conv: bool) -> list[LoraTarget]:
    """Kohya's choice in Kohya's order: every linear layer and convolution inside the named classes.

    transformers 5.6 dropped the level `text_model` from CLIPTextModel; Kohya's names keep it.
    """
    text_prefix = "lora_te_" if hasattr(text_encoder, "text_model") else "lora_te_text_model_"
    return [
        *_inside(text_encoder, "text_encoder", text_prefix, TEXT),
        *_inside(unet, "unet", "lora_unet_", ATTENTION | CONVOLUTION if conv else ATTENTION),
    ]


def _inside(root: nn.Module, component: str, prefix: str, classes: set[str]) -> list[LoraTarget]:
    targets = []
    for parent_path, parent in root.named_modules():
        if type(parent).__name__ not in classes:
            continue
        for child_path, child in parent.named_modules():
            path = f"{parent_path}.{child_path}"
            name = prefix + path.replace(".", "_")
            if isinstance(child, nn.Linear):
                targets.append(LoraTarget(component, path, name, "linear"))
            elif isinstance(child, nn.Conv2d):
                one = child.kernel_size == (1, 1)
                targets.append(LoraTarget(component, path, name, "conv1x1" if one else "conv3x3"))
    return [target for _, block in groupby(targets, _transformer_block) for target in sorted(block, key=_is_attn2)]


def _transformer_block(target: LoraTarget) -> str:
    """The transformer block that the layer is in, "" for none."""
    found = re.match(r".*\.transformer_blocks\.\d+\.", target.path)
    return found[0] if found else ""


def _is_attn2(target: LoraTarget) -> bool:
    """Kohya's UNet has attn2 behind ff, diffusers' before it."""
    return ".attn2." in target.path
