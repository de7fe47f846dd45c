"""How much memory there was when it ran out. Loads no torch: where torch is loaded already, it is asked."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from engine.hardware.system import memory
from engine.memory.classify import is_on_gpu, said, told_numbers
from engine.text import size_text

PIECES = 0.1
"""Share of what is reserved that must be unused to speak of fragmentation: some always is."""
_DOING = {
    "load": "loading", "cache": "caching", "train": "training", "sample": "drawing samples", "save": "saving",
    "validate": "computing the held-out loss",
}  # fmt: skip


@dataclass(frozen=True)
class Shortage:
    """An out-of-memory in numbers: bytes, None where nothing tells them."""

    phase: str
    """As in events: load, cache, train, sample, validate, save; start before the first of them."""
    step: int
    message: str
    """What the failed allocation said, on one line."""
    device: str
    """"cpu" or "cuda:0"."""
    requested: int | None = None
    free: int | None = None
    total: int | None = None
    """Of the card; on the CPU of the address space where it is limited (ulimit -v), else of the machine."""
    allocated: int | None = None
    """By tensors of this process on the card; on the CPU the resident size of this process."""
    reserved: int | None = None
    """By this process on the card, cached blocks included; on the CPU its address space."""

    @property
    def fragmented(self) -> bool:
        """Whether what this process has reserved on the card and does not use would have sufficed, in one piece."""
        if self.device == "cpu" or self.requested is None or self.reserved is None or self.allocated is None:
            return False
        unused = self.reserved - self.allocated
        return unused >= 2 * self.requested and unused >= PIECES * self.reserved

    def as_event(self) -> dict[str, Any]:
        """The fields of an `oom` event."""
        return asdict(self)

    def sentence(self) -> str:
        """What happened, where, and the numbers."""
        where = f"{_DOING.get(self.phase, 'starting')} on {self.device}, after step {self.step}"
        parts = []
        if self.requested is not None:
            parts.append(f"{size_text(self.requested)} more were asked for")
        if self.free is not None and self.total is not None:
            parts.append(f"{size_text(self.free)} of {size_text(self.total)} were free")
        elif self.total is not None:
            parts.append(f"{size_text(self.total)} is all there is")
        told = f"Memory ran out while {where}: {', '.join(parts) or self.message.rstrip('.')}."
        if self.fragmented and self.reserved is not None and self.allocated is not None:
            told += f" {size_text(self.reserved - self.allocated)} are reserved and unused, but in pieces."
        return told


def measure(error: BaseException, *, phase: str, step: int) -> Shortage:
    """The numbers of `error`. Call it before anything is freed: what the failed code held is still counted then."""
    numbers: dict[str, int | None] = {}
    device = "cpu"
    if is_on_gpu(error):
        device, numbers = _on_gpu()
    else:
        numbers = _on_cpu()
    numbers |= told_numbers(error)
    requested, free = numbers.get("requested"), numbers.get("free")
    if requested is not None and free is not None and free >= requested:
        numbers["free"] = None  # some was given back before we could look: it is not what was free then
    return Shortage(phase, step, said(error), device, **numbers)


def _on_gpu() -> tuple[str, dict[str, int | None]]:
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return "cuda", {}
    device = torch.cuda.current_device()
    numbers: dict[str, int | None] = {}
    with suppress(RuntimeError):  # after some errors CUDA answers nothing any more: then these numbers are unknown
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
