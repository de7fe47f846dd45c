"""Additional memory of GPU kernels besides their results, from their sources and measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_backward.default
_EFFICIENT = torch.ops.aten._scaled_dot_product_efficient_attention_backward.default
_WIDTHS = (32, 64, 96, 128, 192, 256)
"""Head sizes of flash attention's kernels; others are padded to the next."""
_ROWS = 128
"""Its tiles."""
MULTIPROCESSORS = 128
"""Of the largest consumer card; with fewer, flash attention takes less."""
CUBLAS = 32 * 2**20
"""Bytes of cuBLAS's workspace, taken from torch's allocator with the first product of a thread: of the main one, and of
the one that computes backward. CUBLAS_WORKSPACE_CONFIG is ":4096:8" in the trainer's environment."""
CUBLASLT = 2**20
"""For linear layers with bias, once: measured on an H200."""


def workspace(operation: Any, args: Sequence[Any], result: Any, deterministic: bool) -> int:
    """Bytes that `operation` takes while it runs.

    The attention's backward pass accumulates the gradient of the queries in float32, [B, N, heads, width] (mha_bwd in
    torch's flash_api.cpp; in the memory-efficient kernel only in half precision, attention_backward.cu), and keeps a
    float per row. Deterministic flash attention has a sum for each group of multiprocessors that works on one head.

    cuDNN convolves in half precision with the channels last, and copies the input, the weight and the result: measured
        on
    an H200 for four sizes, forward and backward.

    Args:
        deterministic: memory.deterministic.
    """
    if operation in _CONVOLUTIONS:
        return _copies(args, result)
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


def _copies(args: Sequence[Any], result: Any) -> int:
    if args[0].dtype not in (torch.float16, torch.bfloat16):
        return 0
    if isinstance(result, Tensor):
        return int(args[0].nbytes + args[1].nbytes + result.nbytes)
    gradient, inputs, weight = args[:3]
    return int(gradient.nbytes + inputs.nbytes + weight.nbytes)
