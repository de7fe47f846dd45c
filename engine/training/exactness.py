"""Deterministic kernels: an exact resume needs them. On the CPU all kernels are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from engine.types import Log

T = TypeVar("T")
FLASH = (8, 0)
"""The compute capability from which on torch has flash attention."""


def set_determinism(deterministic: bool = True) -> None:
    """Choose deterministic GPU kernels where torch has them; some others sum in varying order.

    cuDNN's attention is always disabled: from torch 2.11 on it is the first choice on Hopper, is not deterministic, and
    its gradients are NaN for some lengths (pytorch issue 196678; seen here with 22 tokens on an H200).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Otherwise every new tensor is filled first: a pass over the memory for each operation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class DeterministicStep:
    """Runs a step with deterministic kernels only; under torch's `warn_only` attention would use others.

    Args:
        strict: memory.deterministic.
        flash: whether the model can use flash attention: half precision, no mask.
        log: called with the reason if a resume will not be exact.
    """

    def __init__(self, device: torch.device, strict: bool, flash: bool, log: Log) -> None:
        self._strict = strict and device.type == "cuda"
        self._log = log
        if self._strict and not (flash and torch.cuda.get_device_capability(device) >= FLASH):
            # The only other deterministic attention takes ten to thirty times as long (benchmarks/attention.py).
            self._give_up("flash attention needs half precision, no mask and compute capability 8.0")

    def __call__(self, compute: Callable[[], T], undo: Callable[[], None]) -> T:
        """The result of `compute`; if torch refuses it for lack of a deterministic kernel, `undo` it and compute again
        with any kernels."""
        if not self._strict:
            return compute()
        torch.use_deterministic_algorithms(True)
        try:
            return compute()
        except RuntimeError as error:
            if "deterministic" not in str(error):
                raise
            self._give_up(str(error).partition(",")[0])
        finally:
            torch.use_deterministic_algorithms(True, warn_only=True)
        undo()
        return compute()

    def _give_up(self, why: str) -> None:
        self._strict = False
        self._log(f"A resume will not be exact to the byte on this GPU: {why}.")
