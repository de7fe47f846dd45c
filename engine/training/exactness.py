"""Kernels that give the same bytes each time: an exact resume needs them. On the CPU nothing has to be chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from engine.models.base import Say

T = TypeVar("T")


def choose_kernels() -> None:
    """On a GPU some kernels add in any order; take those that do not, where there are such.

    cuDNN's attention is left out altogether: from torch 2.11 on it is the first choice on Hopper, adds in any order,
    and its gradients are NaN for some lengths (pytorch issue 196678; seen here with 22 tokens on an H200).
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_cudnn_sdp(False)
    # Otherwise every new tensor is filled before it is written to: a pass over the memory for each operation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class Exactly:
    """Computes with deterministic kernels alone: where torch may choose others with a warning, attention does.

    Args:
        say: told once, when a model has an operation that no such kernel exists for. From then on the others are taken.
    """

    def __init__(self, device: torch.device, say: Say) -> None:
        self._strict = device.type == "cuda"
        self._say = say

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
            self._strict = False
            self._say(f"A resume will not be exact to the byte on this GPU: {str(error).partition('.')[0]}.")
        finally:
            torch.use_deterministic_algorithms(True, warn_only=True)
        undo()
        return compute()
