"""The names inside a LoRA file in Kohya's format (facts: sd-scripts `networks/lora.py`). Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from engine.errors import ModelError

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
PARTS = (DOWN, UP, ALPHA)
"""The three tensors of a module."""

PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_")

_FOREIGN = {
    "lora_A.": "is in peft's format",
    "lora_B.": "is in peft's format",
    "lora_linear_layer.": "is in an old diffusers format",
    "_lora.down": "is in an old diffusers format",
    "hada_": "is a LoHa (LyCORIS), not a LoRA",
    "lokr_": "is a LoKr (LyCORIS), not a LoRA",
    "dora_scale": "is a DoRA",
    "oft_": "is an OFT, not a LoRA",
}

T = TypeVar("T")


def foreign_kind(keys: Iterable[str]) -> str | None:
    """What a file of these keys is when it is no LoRA in Kohya's format: "is in peft's format"; None when it is one."""
    for key in keys:
        for mark, kind in _FOREIGN.items():
            if mark in key:
                return kind
    return None


def by_module(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """{"lora_unet_...": {"lora_down.weight": tensor, ...}} from a flat mapping, in the order of the mapping.

    Raises:
        ModelError: a key is not of Kohya's format.
    """
    modules: dict[str, dict[str, T]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        if part not in PARTS or not name.startswith(PREFIXES):
            kind = foreign_kind(tensors) or f"has the key {key}, which no LoRA in Kohya's format has"
            raise ModelError(
                f"The LoRA to start from {kind}.",
                "network_weights takes a LoRA in Kohya's format (keys lora_unet_... and lora_te_...).",
            )
        modules.setdefault(name, {})[part] = tensor
    return modules


def sd15_text_names() -> list[str]:
    """The 72 modules of SD1.5's text encoder (facts §5.3)."""
    parts = [f"self_attn_{part}_proj" for part in ("k", "v", "q", "out")] + ["mlp_fc1", "mlp_fc2"]
    return [f"lora_te_text_model_encoder_layers_{layer}_{part}" for layer in range(12) for part in parts]


def sd15_unet_names(*, conv: bool) -> list[str]:
    """The 192 modules of SD1.5's UNet, or 278 with convolutions."""
    blocks = [f"lora_unet_down_blocks_{block}_attentions_{number}" for block in range(3) for number in range(2)]
    blocks += ["lora_unet_mid_block_attentions_0"]
    blocks += [f"lora_unet_up_blocks_{block}_attentions_{number}" for block in range(1, 4) for number in range(3)]
    inside = [f"attn{number}_to_{part}" for number in (1, 2) for part in ("q", "k", "v", "out_0")]
    inside = [f"transformer_blocks_0_{part}" for part in [*inside, "ff_net_0_proj", "ff_net_2"]]
    names = [f"{block}_{part}" for block in blocks for part in ["proj_in", *inside, "proj_out"]]
    return names + _sd15_convolution_names() if conv else names


def _sd15_convolution_names() -> list[str]:
    names = []
    widths = {"down": (320, 640, 1280, 1280), "up": (1280, 1280, 640, 320)}
    for way, count in (("down", 2), ("up", 3)):
        before = 320 if way == "down" else 1280
        for block, width in enumerate(widths[way]):
            for number in range(count):
                resnet = f"lora_unet_{way}_blocks_{block}_resnets_{number}"
                names += [f"{resnet}_{part}" for part in ("conv1", "time_emb_proj", "conv2")]
                if way == "up" or (number == 0 and width != before):  # up blocks take the skip connection in
                    names.append(f"{resnet}_conv_shortcut")
            before = width
            if block < 3:
                names.append(f"lora_unet_{way}_blocks_{block}_{way}samplers_0_conv")
    middle = [f"lora_unet_mid_block_resnets_{number}" for number in range(2)]
    return names + [f"{resnet}_{part}" for resnet in middle for part in ("conv1", "time_emb_proj", "conv2")]
