"""CPU, memory and disk of this machine, within the limits of a container."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path("/")
_NO_LIMIT = 2**60


@dataclass(frozen=True)
class System:
    """The machine at one moment. Memory in bytes."""

    os: str
    cpu: str
    cores: int
    """Physical cores."""
    threads: int
    """Hardware threads that this process may use."""
    memory_total: int
    """The container's limit where there is a lower one."""
    memory_free: int
    container: bool


def read_system() -> System:
    """Read all values once."""
    total, free = memory()
    threads = usable_threads()
    return System(
        os=f"{platform.system()} {platform.release()}",
        cpu=cpu_name(),
        cores=psutil.cpu_count(logical=False) or threads,
        threads=threads,
        memory_total=total,
        memory_free=free,
        container=in_container(),
    )


def usable_threads() -> int:
    """Hardware threads that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> tuple[int, int]:
    """(total, free) memory in bytes, within the container's limit where there is a lower one."""
    machine = psutil.virtual_memory()
    limit, used = _container_memory()
    if limit is None or limit >= machine.total:
        return machine.total, machine.available
    return limit, max(0, min(machine.available, limit - (used or 0)))


def cpu_name(root: Path = ROOT) -> str:
    """The CPU's name as the manufacturer writes it; the architecture where the system does not report one."""
    for line in _lines(root / "proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip().lower() in ("model name", "hardware") and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine()


def in_container(root: Path = ROOT) -> bool:
    """Whether this looks like Docker, Podman or Kubernetes."""
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        return True
    marks = ("docker", "kubepods", "containerd", "lxc")
    return any(mark in line for line in _lines(root / "proc/1/cgroup") for mark in marks)


def disk_free(path: Path) -> int | None:
    """Free bytes on the file system that `path` is, or would be, on; None when it is unknown."""
    try:
        existing = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
        return shutil.disk_usage(existing).free
    except (OSError, StopIteration):
        return None


def _container_memory(root: Path = ROOT) -> tuple[int | None, int | None]:
    """(limit, used) in bytes of the control group, version 2 or 1; None where there is none."""
    places = (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    )
    for limit, used in places:
        number = _number(root / limit)
        if number is not None and number < _NO_LIMIT:
            return number, _number(root / used)
    return None, None


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
