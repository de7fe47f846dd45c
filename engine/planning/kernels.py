"""What GPU kernels take besides their results, as far as their sources tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_backward.default
_EFFICIENT = torch.ops.aten._scaled_dot_product_efficient_attention_backward.default
_WIDTHS = (32, 64, 96, 128, 192, 256)
"""Head sizes that flash attention has kernels for; others are filled up to the next."""
_ROWS = 128
"""Its tiles."""
CUBLAS = 32 * 2**20
"""Bytes of cuBLAS's workspace, taken from torch's allocator with the first product: CUBLAS_WORKSPACE_CONFIG is
":4096:8" in the trainer's environment."""


MULTIPROCESSORS = 128
"""Of the largest card that people have at home; with fewer, flash attention takes less."""


def workspace(operation: Any, args: Sequence[Any], deterministic: bool) -> int:
    """Bytes that `operation` takes while it runs.

    The attention's backward pass adds up the gradient of the queries in float32 and keeps a float a row: the first in
    [B, N, heads, width] (mha_bwd in torch's flash_api.cpp), in the memory-efficient kernel only where it computes in
    half precision (attention_backward.cu). To add in one order, flash attention keeps a sum for each share of the
    multiprocessors that works on one head.

    Args:
        deterministic: memory.deterministic.
    """
    if operation not in (_FLASH, _EFFICIENT):
        return 0
    query = args[1]
    batch, heads, rows, width = query.shape
    if operation is _EFFICIENT:
        gradient = 0 if query.dtype == torch.float32 else query.numel() * 4
        return int(gradient + batch * heads * rows * 4)
    rows = -(-rows // _ROWS) * _ROWS
    width = next(size for size in _WIDTHS if size >= width)
    sums = -(-MULTIPROCESSORS // (batch * heads)) if deterministic else 1
    return int(batch * heads * rows * (sums * width + 1) * 4)
