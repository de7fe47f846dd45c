"""The part of `[network]` that chooses layers, and gives them ranks and rates (names: sd-scripts, LyCORIS)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator, model_validator

from engine.config import block_values
from engine.config.fields import Table, setting
from engine.config.patterns import compiled

Preset = Literal[
    "full",
    "full-lin",
    "attn-mlp",
    "attn-only",
    "unet-only",
    "unet-transformer-only",
    "unet-convblock-only",
    "ia3",
]
WITH_CONVOLUTIONS = ("full", "unet-only", "unet-convblock-only")
"""The presets that train convolutions wider than 1x1."""
WITHOUT_TEXT = ("unet-only", "unet-transformer-only", "unet-convblock-only")
"""The presets that train no text encoder."""
MOST_PATTERNS = 50
RANK_LISTS = ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas")
ROWS_OF_WEIGHTS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight")
WEIGHT_LISTS = (*ROWS_OF_WEIGHTS, "block_lr_weight")
BLOCK_SETTINGS = (*RANK_LISTS, *WEIGHT_LISTS, "block_lr_zero_threshold")
"""Settings with a value for each block, for families with Kohya's lists (`FamilySpec.block_lists`)."""
PATTERN_LISTS = ("include_patterns", "exclude_patterns")
CHOOSING = ("preset", *PATTERN_LISTS)
RATIOS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")


class LayersTable(Table):
    """Which layers are trained, and how."""

    preset: Preset | None = setting(
        None,
        "Layers",
        "The layers that are trained, by the name of LyCORIS' preset; unset: those of the module. docs/layers.md has "
        "what each selects.",
        vram="full: more",
        advanced=True,
    )
    include_patterns: list[str] = setting(
        [],
        "Only these layers",
        "Regular expressions, searched in Kohya's name of each layer (lora_unet_...): alone, only these layers are "
        "trained; with exclude_patterns, they are kept although one of those matches.",
        vram="less",
        advanced=True,
    )
    exclude_patterns: list[str] = setting(
        [],
        "Not these layers",
        "Regular expressions, searched in Kohya's name of each layer: a layer that one matches is not trained.",
        vram="less",
        advanced=True,
    )
    block_dims: str | None = setting(
        None,
        "Rank by block",
        "U-Net: the rank of each block in Kohya's order, separated by commas; 0: none. docs/layers.md has the order.",
        vram="more",
        advanced=True,
    )
    block_alphas: str | None = setting(
        None, "Alpha by block", "Alpha of each block in block_dims; 0 uses the block's rank.", advanced=True
    )
    conv_block_dims: str | None = setting(
        None,
        "Convolution rank by block",
        "Rank of the 3x3 convolutions of each block in block_dims; 0 does not train them.",
        vram="more",
        advanced=True,
    )
    conv_block_alphas: str | None = setting(
        None, "Convolution alpha by block", "Alpha of each block in conv_block_dims.", advanced=True
    )
    down_lr_weight: str | None = setting(
        None,
        "Factors of down blocks",
        "U-Net: factors on unet_lr for the down blocks: numbers separated by commas, or a curve (cosine, sine, linear, "
        "reverse_linear, zeros), as in sine+0.25. 0: the block is not trained.",
        advanced=True,
    )
    mid_lr_weight: str | None = setting(
        None,
        "Factors of the middle",
        "Factors on the learning rate of the middle block, without curves.",
        advanced=True,
    )
    up_lr_weight: str | None = setting(
        None, "Factors of up blocks", "Factors on the learning rate of the up blocks.", advanced=True
    )
    block_lr_weight: str | None = setting(
        None,
        "Factors of all blocks",
        "The factors of all blocks in one list of numbers, instead of the three others.",
        advanced=True,
    )
    block_lr_zero_threshold: float = setting(
        0.0, "Zero factor", "Blocks with a factor up to this are not trained.", ge=0, advanced=True
    )
    network_reg_dims: str | None = setting(
        None,
        "Rank by name",
        "pattern=rank, separated by commas: regular expressions that are searched in Kohya's name of each layer. The "
        "first that matches counts, 0: none.",
        advanced=True,
    )
    network_reg_lrs: str | None = setting(
        None,
        "Learning rate by name",
        "pattern=rate in the same form: the learning rate of these layers.",
        advanced=True,
    )
    loraplus_lr_ratio: float | None = setting(
        None,
        "LoRA+",
        "The learning rate of the outer matrices (lora_up) is so many times that of the others; 16 in the paper.",
        gt=0,
        advanced=True,
    )
    loraplus_unet_lr_ratio: float | None = setting(
        None,
        "LoRA+ of the U-Net",
        "Ratio for the U-Net or transformer, used instead of loraplus_lr_ratio.",
        gt=0,
        advanced=True,
    )
    loraplus_text_encoder_lr_ratio: float | None = setting(
        None,
        "LoRA+ of text encoders",
        "Ratio for the text encoders, used instead of loraplus_lr_ratio.",
        gt=0,
        advanced=True,
    )

    @field_validator(*RANK_LISTS, *WEIGHT_LISTS, "network_reg_dims", "network_reg_lrs", mode="before")
    @classmethod
    def _take_lists(cls, value: Any) -> Any:
        return block_values.as_text(value)

    @field_validator("include_patterns", "exclude_patterns")
    @classmethod
    def _check_patterns(cls, texts: list[str]) -> list[str]:
        if len(texts) > MOST_PATTERNS:
            raise ValueError(f"up to {MOST_PATTERNS} regular expressions")
        for text in texts:
            compiled(text)
        return texts

    @field_validator("block_dims", "conv_block_dims")
    @classmethod
    def _check_ranks(cls, text: str | None) -> str | None:
        if text is not None:
            block_values.ranks(text)
        return text

    @field_validator("block_alphas", "conv_block_alphas")
    @classmethod
    def _check_alphas(cls, text: str | None) -> str | None:
        if text is not None:
            block_values.alphas(text)
        return text

    @field_validator("down_lr_weight", "up_lr_weight")
    @classmethod
    def _check_weights(cls, text: str | None) -> str | None:
        if text is not None:
            block_values.weights(text)
        return text

    @field_validator("mid_lr_weight", "block_lr_weight")
    @classmethod
    def _check_plain_weights(cls, text: str | None) -> str | None:
        if text is not None:
            block_values.plain_weights(text)
        return text

    @field_validator("network_reg_dims")
    @classmethod
    def _check_named_ranks(cls, text: str | None) -> str | None:
        if text is not None:
            block_values.pairs(text, int)
        return text

    @field_validator("network_reg_lrs")
    @classmethod
    def _check_named_rates(cls, text: str | None) -> str | None:
        if text is not None:
            block_values.pairs(text, float)
        return text

    @model_validator(mode="after")
    def _check_forms(self) -> LayersTable:
        rows = [key for key in ROWS_OF_WEIGHTS if getattr(self, key) is not None]
        if self.block_lr_weight is not None and rows:
            raise ValueError(f"block_lr_weight and {rows[0]} say the same twice: keep one of them")
        return self

    @property
    def has_weights(self) -> bool:
        """Whether blocks have factors on the learning rate."""
        return any(getattr(self, key) is not None for key in WEIGHT_LISTS)

    @property
    def has_block_ranks(self) -> bool:
        """Whether Kohya's scripts read the lists of ranks and alphas: not without `block_dims` and without factors."""
        return self.block_dims is not None or self.has_weights

    def plus_ratio(self, *, denoiser: bool) -> float | None:
        """LoRA+: the factor on the learning rate of the outer matrices; None without LoRA+."""
        own = self.loraplus_unet_lr_ratio if denoiser else self.loraplus_text_encoder_lr_ratio
        return own or self.loraplus_lr_ratio
