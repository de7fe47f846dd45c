"""Weights stored in 8 bits: plain casts, and ComfyUI's scaled ones. The checks read headers only and load no torch.

A plain cast is a weight like any other. A scaled file says so (a marker tensor `scaled_fp8`, or `scale_weight` beside
the weights), and a weight of it is worth nothing without its scale.
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
    """Whether a tensor belongs to the bookkeeping of scaled weights."""
    return name.rpartition(".")[2] in (*_MARKS, "scaled_fp8")


def check_formats(path: Path, header: Header, prefix: str = "") -> None:
    """Refuse weights that cannot be read back: packed ones, and scaled ones without their scales.

    Args:
        prefix: only tensors under it are looked at.

    Raises:
        ModelError: says which.
    """
    mine = {name: kind for name, (kind, _) in header.tensors.items() if name.startswith(prefix)}
    packed = [name for name, kind in mine.items() if name.endswith("weight") and kind in _PACKED]
    if packed or any(".quant_state." in name for name in mine):
        raise ModelError(
            f"{printable(path)} holds weights that are packed ({listing(packed or sorted(mine), 1)}): a format for "
            "drawing only.",
            "Use the file in fp16, bf16 or fp8; memory.base_precision makes it smaller while it is trained on.",
        )
    if f"{prefix}scaled_fp8" not in mine and not any(name.rpartition(".")[2] in _MARKS for name in mine):
        return
    lacking = [
        name
        for name, kind in mine.items()
        if kind in FORMATS
        and name.endswith(".weight")
        and not any(table in name for table in _TABLES)
        and scale_of(name, mine) is None
    ]
    if lacking:
        raise ModelError(
            f"{printable(path)} says that its fp8 weights are scaled, but {len(lacking)} of them have no scale "
            f"({listing(sorted(lacking), 1)}).",
            "It was cut or converted wrongly: fetch it again, or use the file in fp16 or bf16.",
        )


def restored(tensor: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A scaled weight as its numbers are meant, float32; the scale is one number, or one for each row."""
    import torch

    whole, factor = tensor.to(torch.float32), scale.to(torch.float32)
    if factor.numel() == 1:
        return whole * factor.reshape(())
    return whole * factor.view(-1, *(1,) * (whole.dim() - 1))
