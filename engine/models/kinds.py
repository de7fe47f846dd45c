"""What a file is that no family recognises, for the error message."""

from __future__ import annotations

from engine.models.header import Header

_LORA_ENDINGS = (
    ".lora_down.weight",
    ".lora_up.weight",
    ".lora_A.weight",
    ".lora_B.weight",
    ".lora_A.default.weight",
    ".lora.down.weight",
    ".lora_linear_layer.down.weight",
    *(f"_lora{number}.down.weight" for number in ("", "1", "2")),
    ".hada_w1_a",
    *(f".lokr_{factor}" for factor in ("w1", "w1_a", "w2", "w2_a")),
    ".oft_blocks",
    ".oft_R.weight",
    ".on_input",
    ".diff",
    ".w_norm",
    ".b1.weight",
    ".lambda_layer",
)
_BY_KEY_PART = (
    (("conditioner.embedders.",), "an SDXL checkpoint"),
    (("joint_blocks.",), "a Stable Diffusion 3 checkpoint"),
    (("double_blocks.", "single_transformer_blocks."), "a FLUX model"),
    (("control_model.", "input_hint_block.", "controlnet_cond_embedding."), "a ControlNet"),
    (("motion_modules.",), "an AnimateDiff motion module"),
    (("cond_stage_model.model.transformer.",), "a Stable Diffusion 2 checkpoint"),
    (("ip_adapter.", "image_proj."), "an IP-Adapter"),
    (("emb_params", "string_to_param", "clip_l", "clip_g"), "a textual inversion embedding"),
    (("RRDB_trunk.", "body.0.rdb1.", "model.1.sub.0.RDB1."), "an upscaler"),
)


def is_lora(header: Header) -> bool:
    """Whether the tensors are those of a LoRA or another adapter."""
    return any(name.endswith(_LORA_ENDINGS) for name in header.tensors)


def looks_like(header: Header) -> str | None:
    """What the file is, with its article ("a LoRA"); None when its keys match nothing."""
    if not header.tensors:
        return "empty: it holds no tensors"
    if is_lora(header):
        return "a LoRA, not a base model"
    for parts, kind in _BY_KEY_PART:
        if any(part in name for name in header.tensors for part in parts):
            return kind
    unet = header.any("model.diffusion_model.input_blocks.") or header.any("down_blocks.")
    if unet:
        return "a UNet alone, without text encoder and VAE"
    if header.any("encoder.down") or header.any("first_stage_model.") or header.any("decoder.up"):
        return "a VAE, not a base model (it can be set as model.vae)"
    if header.any("encoder.block.") and header.any("shared."):
        return "T5 alone, a text encoder (FLUX's is set as flux.t5xxl)"
    if header.any("text_model.") or header.any("cond_stage_model."):
        return "a text encoder alone"
    return None
