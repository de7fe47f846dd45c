"""The GPU that a process computes on, from `memory.device` and what torch sees."""

from __future__ import annotations

import torch

from engine.errors import UsageError
from engine.hardware import Gpu, gpu_number


def chosen_gpu(device: str, index: int | None = None) -> Gpu | None:
    """The GPU of `memory.device`, which becomes torch's current device; None: the CPU.

    From torch and not from NVML: CUDA_VISIBLE_DEVICES may count otherwise, and NVML may be missing.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        index: of the GPU, instead of the one in `device`; for the ranks of a run.

    Raises:
        UsageError: `device` names a GPU and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if device.startswith("cuda") and not has_cuda:
        raise UsageError(
            f"memory.device={device}, but torch finds no GPU here.",
            "Set memory.device=cpu, or fix the driver.",
            code="no-gpu",
        )
    requested = gpu_number(device)
    if not has_cuda or requested is None:
        return None
    number = requested if index is None else index
    torch.cuda.set_device(number)
    return torch_gpu(number)


def torch_gpu(number: int) -> Gpu:
    """The GPU of that number, with its name and compute capability from torch."""
    capability = torch.cuda.get_device_capability(number)
    return Gpu(number, torch.cuda.get_device_name(number), compute_capability=capability)
