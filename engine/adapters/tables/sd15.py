"""Kohya's module names for Stable Diffusion 1.x (facts §5.3)."""

from __future__ import annotations

from engine.adapters.tables.base import Table


def text_names() -> list[str]:
    """The 72 modules of SD1.5's text encoder (facts §5.3)."""
    parts = [f"self_attn_{part}_proj" for part in ("k", "v", "q", "out")] + ["mlp_fc1", "mlp_fc2"]
    return [f"lora_te_text_model_encoder_layers_{layer}_{part}" for layer in range(12) for part in parts]


def unet_names() -> list[str]:
    """The 192 modules of the UNet's attention."""
    blocks = [f"lora_unet_down_blocks_{block}_attentions_{number}" for block in range(3) for number in range(2)]
    blocks += ["lora_unet_mid_block_attentions_0"]
    blocks += [f"lora_unet_up_blocks_{block}_attentions_{number}" for block in range(1, 4) for number in range(3)]
    inside = [f"attn{number}_to_{part}" for number in (1, 2) for part in ("q", "k", "v", "out_0")]
    inside = [f"transformer_blocks_0_{part}" for part in [*inside, "ff_net_0_proj", "ff_net_2"]]
    return [f"{block}_{part}" for block in blocks for part in ["proj_in", *inside, "proj_out"]]


def convolution_names() -> list[str]:
    """The 86 modules of the UNet that come besides with convolutions."""
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


SD15 = Table(
    {"UNet": tuple(unet_names()), "text encoder": tuple(text_names())},
    tuple(convolution_names()),
    attending=(False, True, True, True),
)
