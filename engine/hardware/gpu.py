"""The NVIDIA GPUs of this machine. A value that the driver does not report is None; nothing here raises.

GPUs are counted in the order of the PCI bus, as NVML and nvidia-smi do. CUDA does so only with
`CUDA_DEVICE_ORDER=PCI_BUS_ID`, which a launched run gets (`engine.runs.launch`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psutil

from engine.hardware.nvml import NvmlProblem, opened, query
from engine.hardware.system import in_container


@dataclass(frozen=True)
class Program:
    """A program that holds VRAM."""

    pid: int
    """The host's process id, which inside a container is no process of ours."""
    name: str | None
    bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One GPU at one moment."""

    index: int
    """In PCI bus order."""
    name: str
    uuid: str | None = None
    total: int | None = None
    """Bytes of VRAM; of the machine's memory where the GPU shares it (`unified`)."""
    used: int | None = None
    free: int | None = None
    unified: bool = False
    """The GPU has no memory of its own."""
    mig: bool = False
    """Split into instances: CUDA sees one of them, with less memory than `total`."""
    compute_capability: tuple[int, int] | None = None
    temperature: int | None = None
    """°C"""
    power: float | None = None
    """Watt"""
    power_limit: float | None = None
    """The present limit, in Watt."""
    utilization: int | None = None
    """Percent of the time in which it computed something."""
    cores: int | None = None
    """CUDA cores."""
    clock_max: int | None = None
    """MHz"""
    programs: tuple[Program, ...] = ()
    """Largest first."""

    @property
    def peak_flops(self) -> float | None:
        """FLOP/s in fp32: a multiply-add of each core at the highest clock; None where they are unknown."""
        return self.cores * 2 * self.clock_max * 1e6 if self.cores and self.clock_max else None


@dataclass(frozen=True)
class GpuReport:
    """All GPUs, or why there are none."""

    gpus: list[Gpu] = field(default_factory=list)
    problem: str | None = None
    """One plain sentence; may also be set when only one of several GPUs does not answer."""
    driver: str | None = None
    cuda: str | None = None
    """Newest CUDA version that the driver can run: "13.0"."""

    def visible(self, environment: Mapping[str, str] = os.environ) -> list[Gpu]:
        """The GPUs that CUDA will count as cuda:0, cuda:1, ..., after CUDA_VISIBLE_DEVICES (indices or UUIDs)."""
        value = environment.get("CUDA_VISIBLE_DEVICES")
        if value is None:
            return list(self.gpus)
        chosen: list[Gpu] = []
        for part in (part.strip() for part in value.split(",")):
            matches = [gpu for gpu in self.gpus if _matches(gpu, part)]
            if len(matches) != 1 or matches[0] in chosen:  # CUDA too stops at the first invalid entry
                break
            chosen.append(matches[0])
        return chosen


def _matches(gpu: Gpu, part: str) -> bool:
    if part.isdecimal():
        return gpu.index == int(part)
    return len(part) > 4 and part.startswith("GPU-") and (gpu.uuid or "").startswith(part)


def list_gpus() -> GpuReport:
    """Query every GPU once; takes some ten milliseconds."""
    try:
        with opened() as nvml:
            return _report(nvml)
    except NvmlProblem as problem:
        return GpuReport(problem=str(problem))


def _report(nvml: Any) -> GpuReport:
    driver = query(nvml, nvml.nvmlSystemGetDriverVersion)
    cuda = query(nvml, nvml.nvmlSystemGetCudaDriverVersion)
    count = query(nvml, nvml.nvmlDeviceGetCount) or 0
    gpus: list[Gpu] = []
    problems = []
    for index in range(count):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError as error:
            problems.append(f"GPU {index} does not answer: {error}.")
            continue
        gpus.append(_gpu(nvml, index, handle))
    if not count:
        problems.append("The NVIDIA driver is installed but reports no GPU; a container needs --gpus all.")
    return GpuReport(
        gpus=gpus,
        problem=" ".join(problems) or None,
        driver=None if driver is None else str(driver),
        cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
    )


def _gpu(nvml: Any, index: int, handle: Any) -> Gpu:
    memory = query(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    capability = query(nvml, lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))
    mig = query(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle))
    power = query(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    limit = query(nvml, lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    rates = query(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
    name = query(nvml, lambda: nvml.nvmlDeviceGetName(handle))
    split = bool(mig and mig[0])
    total, used, free = (memory.total, memory.used, memory.free) if memory is not None else (None, None, None)
    unified = memory is None and not split and _memory_not_supported(nvml, handle)
    if unified:
        machine = psutil.virtual_memory()
        total, used, free = machine.total, machine.total - machine.available, machine.available
    return Gpu(
        index=index,
        name=str(name or f"GPU {index}"),
        uuid=query(nvml, lambda: nvml.nvmlDeviceGetUUID(handle)),
        total=total,
        used=used,
        free=free,
        unified=unified,
        mig=split,
        compute_capability=None if capability is None else (int(capability[0]), int(capability[1])),
        temperature=query(nvml, lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        power=None if power is None else power / 1000,
        power_limit=None if limit is None else limit / 1000,
        utilization=None if rates is None else int(rates.gpu),
        cores=query(nvml, lambda: nvml.nvmlDeviceGetNumGpuCores(handle)),
        clock_max=query(nvml, lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
        programs=_programs(nvml, handle),
    )


def _memory_not_supported(nvml: Any, handle: Any) -> bool:
    """Whether the driver reports "not supported" (GB10 and other shared-memory chips), not another error."""
    try:
        nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        return bool(error.value == nvml.NVML_ERROR_NOT_SUPPORTED)
    return False


def _programs(nvml: Any, handle: Any) -> tuple[Program, ...]:
    sizes: dict[int, int | None] = {}
    for call in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        for process in query(nvml, partial(call, handle)) or []:
            sizes[process.pid] = process.usedGpuMemory or sizes.get(process.pid)
    programs = [Program(pid, _program_name(nvml, pid), size) for pid, size in sizes.items()]
    return tuple(sorted(programs, key=lambda program: -(program.bytes or 0)))


def _program_name(nvml: Any, pid: int) -> str | None:
    if in_container():
        return None  # the id is the host's: here it belongs to another process or to none
    command = query(nvml, lambda: nvml.nvmlSystemGetProcessName(pid))
    if command:
        return re.split(r"[/\\]", str(command).split(" -")[0])[-1]
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return None
