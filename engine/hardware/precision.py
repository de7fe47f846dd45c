"""Which precision a run computes in, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.errors import UsageError
from engine.hardware.abilities import abilities, dotted
from engine.hardware.gpu import Gpu

Precision = Literal["no", "fp16", "bf16"]


@dataclass(frozen=True)
class Choice:
    """A precision ("no" is fp32) and its reason: "bf16: compute capability 8.6"."""

    value: Precision
    reason: str

    @property
    def text(self) -> str:
        """ "bf16 (compute capability 8.6)"; fp32 by its name."""
        return f"{compute_dtype(self.value)} ({self.reason.removeprefix('fp32, ')})"


def choose_precision(requested: Literal["auto", "no", "fp16", "bf16"], gpu: Gpu | None) -> Choice:
    """Decide on `memory.mixed_precision`.

    Args:
        requested: the value of the configuration.
        gpu: the device of the run; None is the CPU.

    Raises:
        UsageError: the device cannot compute in it.
    """
    if gpu is None:
        return _on_cpu(requested)
    capability = gpu.compute_capability
    reason = f"compute capability {dotted(capability)}" if capability else "compute capability unknown"
    has = abilities(capability)
    if requested == "bf16" and not has.bf16:
        raise UsageError(
            f"memory.mixed_precision is bf16, but {gpu.name} cannot compute in it ({reason}, 8.0 is needed).",
            "Set memory.mixed_precision to fp16 or auto." if has.fp16 else "Set memory.mixed_precision to no or auto.",
            code="precision-not-possible",
        )
    if requested == "fp16" and not has.fp16:
        raise UsageError(
            f"memory.mixed_precision is fp16, but {gpu.name} cannot compute in it ({reason}, 5.3 is needed).",
            "Set memory.mixed_precision to no or auto.",
            code="precision-not-possible",
        )
    if requested != "auto":
        return _as_configured(requested)
    if capability is None:
        return Choice("fp16", f"{reason}, and every GPU in use has fp16")
    if has.bf16:
        return Choice("bf16", reason)
    if has.fp16:
        return Choice("fp16", f"{reason}, bf16 needs 8.0")
    return Choice("no", f"fp32, {reason}, fp16 needs 5.3")


def compute_dtype(precision: str) -> str:
    """The number format of weights and activations in a precision: "fp32" for "no", else its name."""
    return {"no": "fp32"}.get(precision, precision)


def _on_cpu(requested: Literal["auto", "no", "fp16", "bf16"]) -> Choice:
    if requested == "fp16":
        raise UsageError(
            "memory.mixed_precision is fp16, but the run computes on the CPU, where training in fp16 is not possible.",
            "Set memory.mixed_precision to no or auto.",
            code="precision-not-possible",
        )
    if requested == "auto":
        return Choice("no", "fp32, bf16 has no benefit on a CPU")
    return _as_configured(requested)


def _as_configured(requested: Precision) -> Choice:
    return Choice(requested, "fp32, as configured" if requested == "no" else "as configured")
