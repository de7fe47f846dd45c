"""`[flux]`: the settings that only FLUX has (meanings: sd-scripts)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from engine.config import block_values
from engine.config.fields import Table, setting

DOUBLE_BLOCKS, SINGLE_BLOCKS = 19, 38
IN_LAYERS = ("img_in", "time_in", "vector_in", "guidance_in", "txt_in")
"""The layers before the blocks, by the names of Black Forest Labs, in the order of `in_dims`."""

RANKS = (
    *("img_attn_dim", "txt_attn_dim", "img_mlp_dim", "txt_mlp_dim", "img_mod_dim", "txt_mod_dim", "single_dim"),
    "single_mod_dim",
)
LAYER_SETTINGS = (
    *("train_blocks", "train_double_block_indices", "train_single_block_indices", *RANKS, "in_dims", "split_qkv"),
)
"""The settings that choose layers and their ranks."""


def _rank(title: str, layers: str) -> Any:
    """The setting of the rank of one kind of layers."""
    help = f"FLUX: rank of {layers}; unset: network_dim, 0: none."
    return setting(None, title, help, ge=0, le=block_values.LARGEST_RANK, vram="more", advanced=True)


class FluxTable(Table):
    """`[flux]`: its files, its captions, its guidance, and the ranks of its layers."""

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
    train_blocks: Literal["all", "double", "single"] = setting(
        "all", "Kinds of blocks", "FLUX: train the blocks of one kind only.", vram="double, single: less", advanced=True
    )
    train_double_block_indices: str = setting(
        "all", "Double blocks", "FLUX: which of the 19 are trained: all, none, or 0-3,7,9-11.", advanced=True
    )
    train_single_block_indices: str = setting(
        "all", "Single blocks", "FLUX: which of the 38 are trained: all, none, or 0-3,7,9-11.", advanced=True
    )
    img_attn_dim: int | None = _rank("Rank of image attention", "the image's attention in double blocks")
    txt_attn_dim: int | None = _rank("Rank of text attention", "the text's attention in double blocks")
    img_mlp_dim: int | None = _rank("Rank of the image MLP", "the image's MLP in double blocks")
    txt_mlp_dim: int | None = _rank("Rank of the text MLP", "the text's MLP in double blocks")
    img_mod_dim: int | None = _rank("Rank of image modulation", "the image's modulation in double blocks")
    txt_mod_dim: int | None = _rank("Rank of text modulation", "the text's modulation in double blocks")
    single_dim: int | None = _rank("Rank of single blocks", "linear1 and linear2 in single blocks")
    single_mod_dim: int | None = _rank("Rank of single modulation", "the modulation in single blocks")
    in_dims: str | None = setting(
        None,
        "Ranks before the blocks",
        "FLUX: five ranks, separated by commas, of the layers that take in image, time, pooled text, guidance and "
        "text; 0: none. Unset: none of them is trained.",
        vram="more",
        advanced=True,
    )
    split_qkv: bool = setting(
        False,
        "Separate q, k, v",
        "FLUX: query, key, value (and the MLP of single blocks) get a LoRA each, with network_dim. They are saved as "
        "one of three or four times the rank.",
        vram="more",
        advanced=True,
    )

    @field_validator("in_dims", mode="before")
    @classmethod
    def _take_a_list(cls, value: Any) -> Any:
        text = block_values.as_text(value)
        return text.strip().removeprefix("[").removesuffix("]") if isinstance(text, str) else text

    @field_validator("in_dims")
    @classmethod
    def _check_in_dims(cls, text: str | None) -> str | None:
        if text is not None and len(block_values.ranks(text)) != len(IN_LAYERS):
            raise ValueError(f"five ranks, separated by commas: of {', '.join(IN_LAYERS)}")
        return text

    @field_validator("train_double_block_indices")
    @classmethod
    def _check_double(cls, text: str) -> str:
        block_values.selected(text, DOUBLE_BLOCKS)
        return text

    @field_validator("train_single_block_indices")
    @classmethod
    def _check_single(cls, text: str) -> str:
        block_values.selected(text, SINGLE_BLOCKS)
        return text
