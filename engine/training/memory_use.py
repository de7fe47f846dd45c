"""The memory of the trainer's process, as the events of steps have it."""

from __future__ import annotations

import torch

from engine.training.session import PhasePeaks


def memory_in_use(device: torch.device, peaks: PhasePeaks | None) -> dict[str, float]:
    """This process's memory in GiB: allocated, reserved and peak on a GPU, resident on the CPU."""
    if device.type != "cuda":
        import psutil

        return {"resident_gib": psutil.Process().memory_info().rss / 2**30}
    stats = torch.cuda.memory_stats(device)
    return {
        "allocated_gib": stats["allocated_bytes.all.current"] / 2**30,
        "reserved_gib": stats["reserved_bytes.all.current"] / 2**30,
        "peak_gib": (peaks.highest() if peaks else stats["allocated_bytes.all.peak"]) / 2**30,
        "alloc_retries": stats["num_alloc_retries"],
    }
