"""Deterministic kernels: an exact resume needs them. On the CPU all kernels are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from engine.hardware.abilities import CPU, FIRST, Abilities, abilities, dotted
from engine.types import Log

T = TypeVar("T")


def set_determinism(deterministic: bool = True) -> None:
    """Choose deterministic GPU kernels where torch has them; some others sum in varying order.

    cuDNN's attention, from torch 2.11 on the first choice on Hopper, is disabled: `engine.training.attention` allows it
    in the steps whose shapes it has tried.
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
        half: whether the model computes in half precision.
        masked: whether its attention has masks.
        log: called with the reason if a resume will not be exact.
    """

    def __init__(self, device: torch.device, strict: bool, *, half: bool, masked: bool, log: Log) -> None:
        self._strict = strict and device.type == "cuda"
        self._log = log
        if self._strict and (reason := _why_no_flash(device, half, masked)):
            # Strict, that kernel takes three to twelve times as long (benchmarks/attention.py).
            self._give_up(f"attention takes the memory-efficient kernel, which adds in varying order: {reason}")

    @property
    def is_exact(self) -> bool:
        """Whether steps on a GPU run with deterministic kernels only, so that the same step gives the same bytes."""
        return self._strict

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


def device_abilities(device: torch.device) -> Abilities:
    """What the device computes."""
    return abilities(torch.cuda.get_device_capability(device)) if device.type == "cuda" else CPU


def _why_no_flash(device: torch.device, half: bool, masked: bool) -> str:
    """Why attention on this GPU does not run in flash attention; empty: it does."""
    if device_abilities(device).attention(half, masked) == "flash":
        return ""
    if not device_abilities(device).flash:
        needed, own = dotted(FIRST["flash"]), dotted(torch.cuda.get_device_capability(device))
        return f"flash attention needs compute capability {needed}, and this GPU has {own}"
    return "flash attention takes no mask" if masked else "flash attention needs half precision"
