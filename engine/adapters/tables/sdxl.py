"""Kohya's module names for SDXL: the UNet's as the original files number its blocks (facts §5.4)."""

from __future__ import annotations

from engine.adapters.tables.base import Table

_ATTENTIONS = (("input_blocks_4", 2), ("input_blocks_5", 2), ("input_blocks_7", 10), ("input_blocks_8", 10),
               ("middle_block", 10), ("output_blocks_0", 10), ("output_blocks_1", 10), ("output_blocks_2", 10),
               ("output_blocks_3", 2), ("output_blocks_4", 2), ("output_blocks_5", 2))  # fmt: skip
"""Blocks with an attention, and its transformer blocks."""


def text_names(prefix: str, layers: int) -> list[str]:
    """The modules of one text encoder."""
    parts = [f"self_attn_{part}_proj" for part in ("k", "v", "q", "out")] + ["mlp_fc1", "mlp_fc2"]
    return [f"{prefix}text_model_encoder_layers_{layer}_{part}" for layer in range(layers) for part in parts]


def unet_names() -> list[str]:
    """The 722 modules of the UNet's attention."""
    inside = [f"attn1_to_{part}" for part in ("q", "k", "v", "out_0")] + ["ff_net_0_proj", "ff_net_2"]
    inside += [f"attn2_to_{part}" for part in ("q", "k", "v", "out_0")]
    names = []
    for block, depth in _ATTENTIONS:
        front = f"lora_unet_{block}_1"
        blocks = [f"{front}_transformer_blocks_{number}_{part}" for number in range(depth) for part in inside]
        names += [f"{front}_proj_in", *blocks, f"{front}_proj_out"]
    return names


def convolution_names() -> list[str]:
    """The 66 modules of the UNet that come besides with convolutions."""
    resnets = [f"input_blocks_{number}_0" for number in (1, 2, 4, 5, 7, 8)] + ["middle_block_0", "middle_block_2"]
    resnets += [f"output_blocks_{number}_0" for number in range(9)]
    names = [f"{front}_{layer}" for front in resnets for layer in ("in_layers_2", "emb_layers_1", "out_layers_3")]
    skips = ["input_blocks_4_0", "input_blocks_7_0", *(f"output_blocks_{number}_0" for number in range(9))]
    names += [f"{front}_skip_connection" for front in skips]
    names += ["input_blocks_3_0_op", "input_blocks_6_0_op", "output_blocks_2_2_conv", "output_blocks_5_2_conv"]
    return [f"lora_unet_{name}" for name in names]


SDXL = Table(
    {
        "UNet": tuple(unet_names()),
        "text encoder 1": tuple(text_names("lora_te1_", 12)),
        "text encoder 2": tuple(text_names("lora_te2_", 32)),
    },
    tuple(convolution_names()),
    attending=(True, True, False),
)
