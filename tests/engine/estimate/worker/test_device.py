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


OPTIMIZERS = {
    "AdamW": 2, "AdamW8bit": 0.5, "Lion": 1, "Prodigy": 4, "Adafactor": 0, "DAdaptAdam": 3, "DAdaptLion": 2,
    "DAdaptAdaGrad": 3, "DAdaptSGD": 3, "DAdaptAdan": 5, "AdamWScheduleFree": 2, "SGDScheduleFree": 1,
    "RAdamScheduleFree": 2, "SGD": 0, "RMSprop": 1,
}  # fmt: skip
"""Float32 states for each weight of a large matrix."""


def states() -> dict[str, float]:
    """In a process of its own: bytes of each optimizer after two steps, as a multiple of the weights'."""
    import torch

    from engine.config.training import TrainingTable
    from engine.estimate.worker import device
    from engine.estimate.worker.counter import StorageCounter
    from engine.estimate.worker.optimizer import optimizer_for_counting

    counter, multiples = StorageCounter(device.NAME), {}
    for name in OPTIMIZERS:
        with device.pretending(counter):
            weights = torch.nn.Parameter(torch.zeros(512, 512, device=device.DEVICE))
            weights.grad = torch.zeros_like(weights)
            before = counter.live
            groups = [{"params": [weights], "lr": 1.0, "name": "unet"}]
            optimizer = optimizer_for_counting(TrainingTable(optimizer_type=name), groups)
            optimizer.step()
            optimizer.step()
        multiples[name] = (counter.live - before) / 2**20
        del optimizer, groups, weights
    return multiples


def test_optimizers_that_read_their_weights_can_be_planned() -> None:
    """Prodigy and its like read sums, which fake tensors do not have; schedule-free ones step in training mode only."""
    assert in_a_fork(states) == pytest.approx(OPTIMIZERS, abs=0.1)
