"""`[flux]`: the settings that only FLUX has (meanings: sd-scripts)."""

from __future__ import annotations

from engine.config.fields import Table, setting


class FluxTable(Table):
    """`[flux]`: its files, its captions and its guidance."""

    clip_l: str | None = setting(
        None, "CLIP-L", "FLUX in separate files: the text encoder CLIP-L, as for ComfyUI and Kohya.", advanced=True
    )
    t5xxl: str | None = setting(
        None, "T5-XXL", "FLUX in separate files: the text encoder T5-XXL, in fp16, bf16 or fp8.", advanced=True
    )
    ae: str | None = setting(None, "Autoencoder", "FLUX in separate files: its VAE, ae.safetensors.", advanced=True)
    t5_tokenizer: str | None = setting(
        None,
        "T5 tokenizer",
        "FLUX: a folder with T5's tokenizer.json. Unset: the model folder's own, or that of the local cache.",
        advanced=True,
    )
    t5xxl_max_token_length: int | None = setting(
        None,
        "T5 caption length",
        "FLUX: tokens of T5; unset: 512 for dev, 256 for schnell.",
        ge=1,
        le=1024,
        unit="tokens",
        vram="more",
        advanced=True,
    )
    apply_t5_attn_mask: bool = setting(
        False, "Mask T5's padding", "FLUX: the transformer ignores the padding of captions.", advanced=True
    )
    guidance_scale: float = setting(
        1.0,
        "Trained guidance",
        "FLUX dev: value of its guidance embedding while training; 1 keeps its distillation.",
        ge=0,
        le=100,
        advanced=True,
    )
    sample_guidance: float = setting(
        3.5,
        "FLUX guidance",
        "Value of FLUX dev's guidance embedding where the prompt has no --g.",
        ge=0,
        le=100,
        advanced=True,
    )
