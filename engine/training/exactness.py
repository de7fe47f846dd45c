"""Kernels that give the same bytes each time: an exact resume needs them. On the CPU nothing has to be chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from engine.models.base import Say

T = TypeVar("T")
FLASH = (8, 0)
"""The compute capability from which on torch has flash attention."""


def choose_kernels(deterministic: bool = True) -> None:
    """On a GPU some kernels add in any order; take those that do not, where there are such and it is wanted.

    cuDNN's attention is left out altogether: from torch 2.11 on it is the first choice on Hopper, adds in any order,
    and its gradients are NaN for some lengths (pytorch issue 196678; seen here with 22 tokens on an H200).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Otherwise every new tensor is filled before it is written to: a pass over the memory for each operation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class Exactly:
    """Computes with deterministic kernels alone. Where torch need only warn of others, attention takes others.

    Args:
        wanted: memory.deterministic.
        flash: the attention is one that flash attention takes: in half precision, without a mask.
        say: told when a resume will not be exact, and why.
    """

    def __init__(self, device: torch.device, wanted: bool, flash: bool, say: Say) -> None:
        self._strict = wanted and device.type == "cuda"
        self._say = say
        if self._strict and not (flash and torch.cuda.get_device_capability(device) >= FLASH):
            # The other deterministic attention takes ten to thirty times as long (benchmarks/attention.py).
            self._refuse("flash attention needs half precision, no mask and compute capability 8.0")

    def __call__(self, compute: Callable[[], T], undo: Callable[[], None]) -> T:
        """The result of `compute`, which is called a second time, after `undo`, where the first one was refused."""
        if not self._strict:
            return compute()
        torch.use_deterministic_algorithms(True)
        try:
            return compute()
        except RuntimeError as error:
            if "deterministic" not in str(error):
                raise
            self._refuse(str(error).partition(",")[0])
        finally:
            torch.use_deterministic_algorithms(True, warn_only=True)
        undo()
        return compute()

    def _refuse(self, why: str) -> None:
        self._strict = False
        self._say(f"A resume will not be exact to the byte on this GPU: {why}.")
