"""A stand-in for the module `pynvml`: GPUs given as dictionaries; a value that is an error code is raised."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pynvml
import pytest


@dataclass(frozen=True)
class Code:
    """An answer that is an error."""

    value: int


def _answer(value: Any) -> Any:
    if isinstance(value, Code):
        raise pynvml.NVMLError(value.value)
    return value


def card(**values: Any) -> dict[str, Any]:
    """A sound card with 12 GiB; `values` replaces some of what it answers."""
    memory = types.SimpleNamespace(total=12 * 2**30, used=2 * 2**30, free=10 * 2**30)
    return {
        "Name": "NVIDIA GeForce RTX 3060", "UUID": "GPU-aaaa1111-0000", "MemoryInfo": memory,
        "CudaComputeCapability": (8, 6), "Temperature": 41, "PowerUsage": 35_500,
        "EnforcedPowerLimit": 170_000, "UtilizationRates": types.SimpleNamespace(gpu=7, memory=3),
        "NumGpuCores": 3584, "MaxClockInfo": 2100,
        "ComputeRunningProcesses": [], "GraphicsRunningProcesses": [],
        "MigMode": Code(pynvml.NVML_ERROR_NOT_SUPPORTED), **values,
    }  # fmt: skip


def process(pid: int, size: int | None) -> types.SimpleNamespace:
    return types.SimpleNamespace(pid=pid, usedGpuMemory=size)


@pytest.fixture
def fake_nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., types.ModuleType]:
    """Install a driver with these cards; `init` and `count` may be error codes. Its `closed` counts shutdowns."""

    def install(cards: Sequence[Any] = (), init: Any = None, count: Any = None, names: Any = None) -> types.ModuleType:
        module = types.ModuleType("pynvml")
        module.NVMLError = pynvml.NVMLError
        for name in dir(pynvml):
            if name.startswith("NVML_ERROR_") or name in ("NVML_TEMPERATURE_GPU", "NVML_CLOCK_SM"):
                setattr(module, name, getattr(pynvml, name))
        module.closed = 0

        def shutdown() -> None:
            module.closed += 1

        module.nvmlInit = lambda: _answer(init)
        module.nvmlShutdown = shutdown
        module.nvmlSystemGetDriverVersion = lambda: "580.65.06"
        module.nvmlSystemGetCudaDriverVersion = lambda: 13000
        module.nvmlSystemGetProcessName = lambda pid: _answer((names or {}).get(pid, Code(pynvml.NVML_ERROR_NOT_FOUND)))
        module.nvmlDeviceGetCount = lambda: _answer(len(cards) if count is None else count)
        module.nvmlDeviceGetHandleByIndex = lambda index: _answer(cards[index])
        for question in card():
            setattr(module, f"nvmlDeviceGet{question}",
                    lambda handle, *rest, question=question: _answer(handle[question]))  # fmt: skip
        monkeypatch.setitem(__import__("sys").modules, "pynvml", module)
        return module

    return install


@pytest.fixture
def make_card() -> Callable[..., dict[str, Any]]:
    return card


@pytest.fixture
def make_process() -> Callable[..., types.SimpleNamespace]:
    return process


@pytest.fixture
def code() -> type[Code]:
    return Code
