"""Whether the installed PyTorch can use a GPU at all, found without importing it."""

from __future__ import annotations

from dataclasses import dataclass

from engine.hardware.gpu import Gpu, GpuReport
from engine.hardware.packages import torch_cuda, version_of

_CUDA_13_FIRST = (7, 5)
"""Lowest compute capability that CUDA 13 compiles for."""


@dataclass(frozen=True)
class TorchBuild:
    """The kind of PyTorch that is installed."""

    version: str | None
    """None: it is not installed."""
    cuda: str | None
    """The CUDA version that it was built for; None for a build without CUDA."""

    @property
    def rocm(self) -> bool:
        """Built for AMD GPUs, which NVML does not list."""
        return "rocm" in (self.version or "")

    def obstacle(self, report: GpuReport) -> tuple[str, str] | None:
        """Why it can use none of the NVIDIA GPUs, and how to fix that; None when it can."""
        if self.version is None:
            return "PyTorch is not installed.", "Reinstall LoRA Smith with its dependencies."
        if self.rocm:
            return f"PyTorch {self.version} is built for AMD GPUs.", _install("For NVIDIA's", report.cuda)
        if self.cuda is None:
            return (
                f"PyTorch {self.version} here is built for the CPU only and leaves the GPU unused.",
                _install("Install a CUDA build", report.cuda),
            )
        if report.cuda is not None and _major(report.cuda) < _major(self.cuda):
            return (
                f"PyTorch {self.version} is built for CUDA {self.cuda}, and the driver runs CUDA up to {report.cuda}.",
                _install("Update the NVIDIA driver, or install a build for it", report.cuda),
            )
        return None

    def trouble(self, report: GpuReport, gpu: Gpu) -> tuple[str, str] | None:
        """Why it cannot use this GPU, and how to fix that; None when it can."""
        return self.obstacle(report) or self.too_new_for(gpu)

    def too_new_for(self, gpu: Gpu) -> tuple[str, str] | None:
        """Why it can't use this GPU although it uses others, and how to fix that; None when it can."""
        capability = gpu.compute_capability
        if self.cuda is None or _major(self.cuda) < 13 or capability is None or capability >= _CUDA_13_FIRST:
            return None
        return (
            f"PyTorch {self.version} is built for CUDA {self.cuda}, which has no code for compute capability "
            f"{capability[0]}.{capability[1]}.",
            _install("Install a build for CUDA 12.6", "12.6"),
        )


def torch_build() -> TorchBuild:
    """The build that is installed here."""
    version = version_of("torch")
    return TorchBuild(version, torch_cuda() if version else None)


def _install(what: str, cuda: str | None) -> str:
    """How to install another build, by pip and by uv.

    Args:
        what: the beginning of the sentence.
        cuda: the newest CUDA version that the driver runs; None where it is unknown.
    """
    build = "cu130" if cuda is not None and _major(cuda) >= 13 else "cu126"
    pip = f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{build}"
    return f"{what}: {pip} (with uv: uv pip install --reinstall torch --torch-backend={build})"


def _major(version: str) -> int:
    return int(version.partition(".")[0])
