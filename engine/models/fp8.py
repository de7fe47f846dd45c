"""Weights stored in 8 bits: plain casts, and ComfyUI's scaled ones. The checks read headers only and load no torch.

A plain cast is a weight like any other. A scaled file has a marker tensor `scaled_fp8`, or a `scale_weight` for each
weight; its weights are useless without their scales.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import ModelError
from engine.models.header import Header
from engine.text import listing, printable

if TYPE_CHECKING:
    import torch

FORMATS = ("F8_E4M3", "F8_E5M2")
_SCALES = ("scale_weight", "weight_scale")
_MARKS = (*_SCALES, "scale_input", "input_scale", "comfy_quant")
_TABLES = ("shared.", "embed_tokens.", "token_embedding.", "position_embedding.", "relative_attention_bias.")
"""Embeddings are not scaled."""
_PACKED = ("U8", "I8", "I16", "I32")


def scale_of(name: str, names: Collection[str] | Mapping[str, object]) -> str | None:
    """The name of the scale of the weight `name`; None where there is none."""
    stem = name.removesuffix("weight")
    return next((stem + scale for scale in _SCALES if stem + scale in names), None)


def is_scale(name: str) -> bool:
    """Whether a tensor is a scale or a marker of scaled weights."""
    return name.rpartition(".")[2] in (*_MARKS, "scaled_fp8")


def check_formats(path: Path, header: Header, prefix: str = "") -> None:
    """Refuse weights that cannot be read back: packed ones, and scaled ones without their scales.

    Args:
        prefix: only tensors under it are checked.

    Raises:
        ModelError: names the tensors.
    """
    formats = {name: kind for name, (kind, _) in header.tensors.items() if name.startswith(prefix)}
    packed = [name for name, kind in formats.items() if name.endswith("weight") and kind in _PACKED]
    if packed or any(".quant_state." in name for name in formats):
        raise ModelError(
            f"{printable(path)} holds weights that are packed ({listing(packed or sorted(formats), 1)}), a format "
            "for generating images only.",
            "Use the file in fp16, bf16 or fp8; memory.base_precision makes it smaller while it is trained on.",
            code="weights-packed",
        )
    if f"{prefix}scaled_fp8" not in formats and not any(name.rpartition(".")[2] in _MARKS for name in formats):
        return
    unscaled = [
        name
        for name, kind in formats.items()
        if kind in FORMATS
        and name.endswith(".weight")
        and not any(table in name for table in _TABLES)
        and scale_of(name, formats) is None
    ]
    if unscaled:
        raise ModelError(
            f"{printable(path)} holds scaled fp8 weights, but {len(unscaled)} of them have no scale "
            f"({listing(sorted(unscaled), 1)}).",
            "It was cut or converted wrongly: fetch it again, or use the file in fp16 or bf16.",
            code="fp8-without-scale",
        )


def dequantize_fp8(tensor: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A scaled weight times its scale, float32; the scale is one number, or one for each row."""
    import torch

    values, factor = tensor.to(torch.float32), scale.to(torch.float32)
    if factor.numel() == 1:
        return values * factor.reshape(())
    return values * factor.view(-1, *(1,) * (values.dim() - 1))
