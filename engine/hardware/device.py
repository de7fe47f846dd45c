"""The GPU that `memory.device` names. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

from engine.hardware.gpu import Gpu


def gpu_number(device: str) -> int | None:
    """The CUDA index of the GPU of "auto", "cuda" (both 0) or "cuda:N"; None: "cpu"."""
    return None if device == "cpu" else int(device.partition(":")[2] or 0)


def gpu_of(device: str, visible: Sequence[Gpu]) -> Gpu | None:
    """The GPU that `device` names.

    Args:
        visible: as CUDA counts them, see `GpuReport.visible`.

    Returns:
        None on the CPU, and where there is no such GPU.
    """
    number = gpu_number(device)
    return visible[number] if number is not None and number < len(visible) else None
