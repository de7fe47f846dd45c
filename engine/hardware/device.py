"""The GPU that `memory.device` names. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

from engine.hardware.gpu import Gpu, list_gpus
from engine.hardware.torch_build import torch_build


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


def process_count(num_processes: int | str, device: str) -> int:
    """The processes of a run with `training.num_processes`. "auto" is one for each GPU that is visible and that PyTorch
    can use, and 1 where `device` is the CPU or names a GPU ("cuda:1")."""
    if num_processes != "auto":
        return int(num_processes)
    if device not in ("auto", "cuda"):
        return 1
    report = list_gpus()
    build = torch_build()
    return max(1, sum(build.trouble(report, gpu) is None for gpu in report.visible()))
