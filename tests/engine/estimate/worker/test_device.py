"""The device that plans are made on."""

from __future__ import annotations

from typing import Any

import pytest

from engine.estimate.worker.device import own_operations
from tests.forked import in_a_fork


def test_operations_of_other_libraries_are_left_out() -> None:
    """torchvision registers some for autocast where it is installed."""
    assert own_operations(["aten::mm", "torchvision::roi_align", "aten::sum.dim_IntList"]) == ["mm", "sum.dim_IntList"]


def probe() -> dict[str, Any]:
    """In a process of its own: the device stays for the whole process."""
    import torch

    from engine.estimate.worker import device
    from engine.estimate.worker.counter import StorageCounter
    from engine.families.flux.parts import HeadNorm

    counter = StorageCounter(device.NAME)
    with device.pretending(counter):
        inputs = torch.empty(2**20, device=device.DEVICE, requires_grad=True)
        counter.restart()
        torch.nn.functional.silu(inputs).backward(torch.empty(2**20, device=device.DEVICE))
        peak = counter.peak
        heads = torch.empty(1, 6, 2, 32, dtype=torch.bfloat16, device=device.DEVICE)
        norm = HeadNorm(32).bfloat16().to(device.DEVICE)
        with device.autocast(torch.bfloat16):
            normed = norm(heads)
    return {"peak": peak / 2**22, "normed": str(normed.dtype)}


@pytest.fixture(scope="module")
def probed() -> dict[str, Any]:
    return in_a_fork(probe)


def test_the_way_back_of_silu_is_one_kernel(probed: dict[str, Any]) -> None:
    """What was given, the result, its gradient and the gradient of what was given; no parts of the formula."""
    assert probed["peak"] == 4


def test_norms_of_flux_keep_half_precision_under_autocast(probed: dict[str, Any]) -> None:
    assert probed["normed"] == "torch.bfloat16"
