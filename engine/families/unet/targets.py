"""Which layers take a LoRA, and their names in Kohya's files."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby

from torch import nn

from engine.lowmem.classes import has_class
from engine.types import LoraTarget

ATTENTION = {"Transformer2DModel"}
CONVOLUTION = {"ResnetBlock2D", "Downsample2D", "Upsample2D"}
TEXT = {"CLIPAttention", "CLIPMLP"}


def text_targets(text_encoder: nn.Module, component: str, prefix: str) -> list[LoraTarget]:
    """A text encoder's layers; transformers 5.6 dropped the level `text_model`, Kohya's names keep it.

    Args:
        prefix: "lora_te_", "lora_te1_" or "lora_te2_".
    """
    level = "" if hasattr(text_encoder, "text_model") else "text_model_"
    return _inside(text_encoder, component, TEXT, lambda path: prefix + level + path.replace(".", "_"))


def unet_targets(unet: nn.Module, name: Callable[[str], str], *, conv: bool) -> list[LoraTarget]:
    """The U-Net's attention layers, and with `conv` those of its resnets and samplers, in diffusers' order.

    Args:
        name: module path to Kohya's name.
    """
    return _inside(unet, "unet", ATTENTION | CONVOLUTION if conv else ATTENTION, name)


def norm_targets(unet: nn.Module, name: Callable[[str], str], *, conv: bool) -> list[LoraTarget]:
    """The U-Net's norm layers in the same blocks, in diffusers' order.

    Args:
        name: module path to Kohya's name.
    """
    classes = ATTENTION | CONVOLUTION if conv else ATTENTION
    return [
        LoraTarget("unet", f"{parent_path}.{path}", name(f"{parent_path}.{path}"), "norm")
        for parent_path, parent in unet.named_modules()
        if has_class(parent, classes)
        for path, child in parent.named_modules()
        if isinstance(child, nn.LayerNorm | nn.GroupNorm)
    ]


def _inside(root: nn.Module, component: str, classes: set[str], name: Callable[[str], str]) -> list[LoraTarget]:
    """Every linear layer and convolution inside the named classes."""
    targets = []
    for parent_path, parent in root.named_modules():
        if not has_class(parent, classes):
            continue
        for child_path, child in parent.named_modules():
            path = f"{parent_path}.{child_path}"
            if isinstance(child, nn.Linear):
                targets.append(LoraTarget(component, path, name(path), "linear"))
            elif isinstance(child, nn.Conv2d):
                is_pointwise = child.kernel_size == (1, 1)
                targets.append(LoraTarget(component, path, name(path), "conv1x1" if is_pointwise else "conv3x3"))
    return [target for _, block in groupby(targets, _transformer_block) for target in sorted(block, key=_is_attn2)]


def _transformer_block(target: LoraTarget) -> str:
    """The transformer block that the layer is in, "" for none."""
    match = re.match(r".*\.transformer_blocks\.\d+\.", target.path)
    return match[0] if match else ""


def _is_attn2(target: LoraTarget) -> bool:
    """Kohya's U-Net has attn2 behind ff, diffusers' before it."""
    return ".attn2." in target.path
