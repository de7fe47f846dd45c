"""Memory statistics at an out-of-memory. Loads no torch, but asks it if it is loaded already."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import psutil

from engine.hardware.system import memory
from engine.out_of_memory import allocation_message, is_on_gpu, reported_numbers
from engine.runs.shortage import Shortage


def measure(error: BaseException, *, phase: str, step: int) -> Shortage:
    """The statistics of `error`. To be called before anything is freed, so that they include the failed code's
    memory."""
    numbers: dict[str, int | None] = {}
    device = "cpu"
    if is_on_gpu(error):
        device, numbers = _on_gpu()
    else:
        numbers = _on_cpu()
    numbers |= reported_numbers(error)
    requested, free = numbers.get("requested"), numbers.get("free")
    if requested is not None and free is not None and free >= requested:
        numbers["free"] = None  # some was freed meanwhile: this is not what was free at the error
    return Shortage(phase, step, allocation_message(error), device, **numbers)


def _on_gpu() -> tuple[str, dict[str, int | None]]:
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return "cuda", {}
    device = torch.cuda.current_device()
    numbers: dict[str, int | None] = {}
    with suppress(RuntimeError):  # after some errors CUDA does not respond any more: these numbers stay unknown
        stats = torch.cuda.memory_stats(device)
        numbers["allocated"] = stats.get("allocated_bytes.all.current")
        numbers["reserved"] = stats.get("reserved_bytes.all.current")
        numbers["free"], numbers["total"] = torch.cuda.mem_get_info(device)
    return f"cuda:{device}", numbers


def _on_cpu() -> dict[str, int | None]:
    used = psutil.Process().memory_info()
    limit = _address_space_limit()
    total, free = memory() if limit is None else (limit, max(0, limit - used.vms))
    return {"total": total, "free": free, "allocated": used.rss, "reserved": used.vms}


def _address_space_limit() -> int | None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit
