"""The attention's two passes on a GPU, by kernel: time, memory, and whether they give the same bytes again.

Sizes are those of the families' largest attentions with one image. "strict" is what the trainer computes its steps
with: torch.use_deterministic_algorithms(True). memory: the peak beyond inputs, output and gradients.

    python benchmarks/attention.py
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

SIZES = {
    "sd15 512²": (8, 4096, 40),
    "sdxl 1024²": (10, 4096, 64),
    "flux 512²": (24, 1536, 128),
    "flux 1024²": (24, 4608, 128),
}
"""Heads, tokens, width of a head."""
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}
TURNS = 15
HEAD = "| attention | kernel | strict | ms | extra MiB | same bytes | finite |"


def passes(inputs: list[Tensor], gradient: Tensor) -> list[Tensor]:
    """Forward and backward; the gradients of query, key and value."""
    for tensor in inputs:
        tensor.grad = None
    output: Tensor = scaled_dot_product_attention(*inputs)
    output.backward(gradient)  # type: ignore[no-untyped-call]
    return [tensor.grad for tensor in inputs if tensor.grad is not None]


def row(name: str, kernel: str, strict: bool) -> str:
    """One row of the table."""
    heads, tokens, width = SIZES[name]
    torch.manual_seed(0)
    shape = (1, tokens, heads, width)
    inputs = [torch.randn(shape, device="cuda", dtype=torch.bfloat16).transpose(1, 2).requires_grad_() for _ in "qkv"]
    gradient = torch.randn_like(inputs[0])
    torch.use_deterministic_algorithms(strict, warn_only=False)
    with sdpa_kernel(KERNELS[kernel]):
        first = [tensor.clone() for tensor in passes(inputs, gradient)]
        same = all(
            torch.equal(mine, theirs)
            for _ in range(4)
            for mine, theirs in zip(passes(inputs, gradient), first, strict=True)
        )
        finite = all(tensor.isfinite().all() for tensor in first)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        milliseconds = [timed(inputs, gradient) for _ in range(TURNS)]
    extra = torch.cuda.max_memory_allocated() - before - inputs[0].nbytes
    words = [name, kernel, yes(strict), f"{statistics.median(milliseconds):.2f}", f"{extra / 2**20:.0f}"]
    return f"| {' | '.join([*words, yes(same), yes(finite)])} |"


def timed(inputs: list[Tensor], gradient: Tensor) -> float:
    """Milliseconds of both passes."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    passes(inputs, gradient)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def yes(value: bool) -> str:
    """For the table."""
    return "yes" if value else "no"


def table() -> Iterator[str]:
    """The rows; a kernel that torch refuses has none of its own."""
    yield f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}\n"  # type: ignore[no-untyped-call]
    yield HEAD
    yield "|" + "---|" * HEAD.count(" |")
    for name in SIZES:
        for kernel in KERNELS:
            for strict in (False, True):
                try:
                    yield row(name, kernel, strict)
                except RuntimeError as refused:
                    yield f"| {name} | {kernel} | {yes(strict)} | {str(refused).splitlines()[0][:60]} | | | |"


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("This needs a GPU that torch sees.")
    for line in table():
        print(line, flush=True)


if __name__ == "__main__":
    main()
