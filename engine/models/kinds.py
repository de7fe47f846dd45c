"""What a file is that no family recognises, for the error message."""

from __future__ import annotations

from typing import Literal, NamedTuple

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


class Likeness(NamedTuple):
    """What a file is."""

    words: str
    """With its article ("a LoRA")."""
    sort: Literal["lora", "model", "part", "other"]
    """"model": of a family of its own; "part": of a base model; "other": nothing that is trained on."""


_BY_KEY_PART = (
    (("conditioner.embedders.",), Likeness("an SDXL checkpoint", "model")),
    (("joint_blocks.",), Likeness("a Stable Diffusion 3 checkpoint", "model")),
    (("double_blocks.", "single_transformer_blocks."), Likeness("a FLUX model", "model")),
    (("control_model.", "input_hint_block.", "controlnet_cond_embedding."), Likeness("a ControlNet", "other")),
    (("motion_modules.",), Likeness("an AnimateDiff motion module", "other")),
    (("cond_stage_model.model.transformer.",), Likeness("a Stable Diffusion 2 checkpoint", "model")),
    (("ip_adapter.", "image_proj."), Likeness("an IP-Adapter", "other")),
    (("emb_params", "string_to_param", "clip_l", "clip_g"), Likeness("a textual inversion embedding", "other")),
    (("RRDB_trunk.", "body.0.rdb1.", "model.1.sub.0.RDB1."), Likeness("an upscaler", "other")),
)


def is_lora(header: Header) -> bool:
    """Whether the tensors are those of a LoRA or another adapter."""
    return any(name.endswith(_LORA_ENDINGS) for name in header.tensors)


def looks_like(header: Header) -> str | None:
    """What the file is, with its article ("a LoRA"); None when its keys match nothing."""
    likeness = likeness_of(header)
    return likeness.words if likeness else None


def likeness_of(header: Header) -> Likeness | None:
    """What the file is; None when its keys match nothing."""
    if not header.tensors:
        return Likeness("empty: it holds no tensors", "other")
    if is_lora(header):
        return Likeness("a LoRA, not a base model", "lora")
    for parts, kind in _BY_KEY_PART:
        if any(part in name for name in header.tensors for part in parts):
            return kind
    unet = header.any("model.diffusion_model.input_blocks.") or header.any("down_blocks.")
    if unet:
        return Likeness("a U-Net alone, without text encoder and VAE", "part")
    if header.any("encoder.down") or header.any("first_stage_model.") or header.any("decoder.up"):
        return Likeness("a VAE, not a base model (it can be set as model.vae)", "part")
    if header.any("encoder.block.") and header.any("shared."):
        return Likeness("T5 alone, a text encoder (FLUX's is set as flux.t5xxl)", "part")
    if header.any("text_model.") or header.any("cond_stage_model."):
        return Likeness("a text encoder alone", "part")
    return None
