"""Latents to the row of 2 × 2 patches that FLUX's transformer works on, and back; the position of each patch."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(latents: Tensor) -> Tensor:
    """[B, C, h, w] with even sides to [B, h/2 · w/2, 4C]: row by row, each patch channel by channel."""
    batch, channels, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, height // 2 * (width // 2), channels * 4)


def unpack(packed: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`: [B, h/2 · w/2, 4C] to [B, C, h, w]."""
    batch, _, channels = packed.shape
    patches = packed.reshape(batch, height // 2, width // 2, channels // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


def positions(height: int, width: int, device: torch.device) -> Tensor:
    """[h/2 · w/2, 3] float32: 0, row and column of each patch of latents h × w; text is at 0, 0, 0."""
    rows, columns = torch.meshgrid(
        torch.arange(height // 2, device=device), torch.arange(width // 2, device=device), indexing="ij"
    )
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()
