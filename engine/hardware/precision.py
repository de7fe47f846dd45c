"""Which precision a run computes in, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.errors import UsageError
from engine.hardware.gpu import Gpu

Precision = Literal["no", "fp16", "bf16"]

_BF16 = (8, 0)
"""First compute capability with bf16 arithmetic (Ampere)."""
_FP16 = (5, 3)
"""First with fp16 arithmetic."""


@dataclass(frozen=True)
class Choice:
    """A precision ("no" is fp32) and the reason for it, to stand behind it: "bf16: compute capability 8.6"."""

    value: Precision
    reason: str


def choose_precision(wish: Literal["auto", "no", "fp16", "bf16"], gpu: Gpu | None) -> Choice:
    """Decide on `memory.mixed_precision`.

    Args:
        wish: what the configuration says.
        gpu: where the run computes; None is the CPU.

    Raises:
        UsageError: the wish cannot be had here.
    """
    if gpu is None:
        return _on_cpu(wish)
    capability = gpu.compute_capability
    told = f"compute capability {capability[0]}.{capability[1]}" if capability else "compute capability unknown"
    has_bf16, has_fp16 = capability is None or capability >= _BF16, capability is None or capability >= _FP16
    if wish == "bf16" and not has_bf16:
        raise UsageError(
            f"memory.mixed_precision is bf16, but {gpu.name} cannot compute in it ({told}, 8.0 is needed).",
            "Set memory.mixed_precision to fp16 or auto." if has_fp16 else "Set memory.mixed_precision to no or auto.",
        )
    if wish == "fp16" and not has_fp16:
        raise UsageError(
            f"memory.mixed_precision is fp16, but {gpu.name} cannot compute in it ({told}, 5.3 is needed).",
            "Set memory.mixed_precision to no or auto.",
        )
    if wish != "auto":
        return _as_configured(wish)
    if capability is None:
        return Choice("fp16", f"{told}, and every GPU in use has fp16")
    if has_bf16:
        return Choice("bf16", told)
    if has_fp16:
        return Choice("fp16", f"{told}, bf16 needs 8.0")
    return Choice("no", f"fp32, because of {told}, and fp16 needs 5.3")


def _on_cpu(wish: Literal["auto", "no", "fp16", "bf16"]) -> Choice:
    if wish == "fp16":
        raise UsageError(
            "memory.mixed_precision is fp16, but the run computes on the CPU, where training in fp16 is not possible.",
            "Set memory.mixed_precision to no or auto.",
        )
    if wish == "auto":
        return Choice("no", "fp32, because bf16 gains nothing on the CPU")
    return _as_configured(wish)


def _as_configured(wish: Precision) -> Choice:
    return Choice(wish, "fp32, as configured" if wish == "no" else "as configured")
