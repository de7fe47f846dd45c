"""What the installed PyTorch can use."""

from __future__ import annotations

import pytest

from engine.hardware.gpu import Gpu, GpuReport
from engine.hardware.packages import torch_cuda, version_of
from engine.hardware.torch_build import TorchBuild, torch_build


@pytest.mark.parametrize(
    ("build", "driver", "sentence"),
    [
        (TorchBuild("2.13.0", "13.0"), "13.0", None),
        (TorchBuild("2.13.0", "12.8"), "13.0", None),
        (TorchBuild("2.13.0", "12.8"), "12.2", None),
        (TorchBuild("2.13.0", "13.0"), None, None),
        (TorchBuild("2.13.0", "13.0"), "12.8", "built for CUDA 13.0, and the driver runs CUDA up to 12.8"),
        (TorchBuild("2.13.0+cpu", None), "13.0", "built for the CPU only"),
        (TorchBuild("2.13.0+rocm6.4", None), "13.0", "built for AMD GPUs"),
        (TorchBuild(None, None), "13.0", "not installed"),
    ],
)
def test_what_keeps_torch_from_a_gpu(build: TorchBuild, driver: str | None, sentence: str | None) -> None:
    problem = build.obstacle(GpuReport(cuda=driver))
    if sentence is None:
        assert problem is None
    else:
        assert problem is not None and sentence in problem[0] and problem[1]


@pytest.mark.parametrize(
    ("cuda", "capability", "dropped"),
    [
        ("13.0", (6, 1), True),
        ("13.0", (7, 5), False),
        ("12.6", (6, 1), False),
        ("13.0", None, False),
        (None, (6, 1), False),
    ],
)
def test_an_old_gpu_and_a_new_torch(cuda: str | None, capability: tuple[int, int] | None, dropped: bool) -> None:
    problem = TorchBuild("2.13.0", cuda).too_new_for(Gpu(0, "GTX 1060", compute_capability=capability))
    assert (problem is not None) == dropped
    if problem is not None:
        assert "no code for compute capability 6.1" in problem[0] and "cu126" in problem[1]


def test_the_one_that_is_installed() -> None:
    assert torch_build() == TorchBuild(version_of("torch"), torch_cuda())
    assert version_of("no-such-package") is None
