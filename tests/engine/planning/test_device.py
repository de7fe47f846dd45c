"""The device that plans are made on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.planning.device import own_operations

ROOT = Path(__file__).resolve().parents[3]


def test_operations_of_other_libraries_are_left_out() -> None:
    """torchvision registers some for autocast where it is installed."""
    assert own_operations(["aten::mm", "torchvision::roi_align", "aten::sum.dim_IntList"]) == ["mm", "sum.dim_IntList"]


PROBE = """
import json
import torch
from engine.models.flux.parts import HeadNorm
from engine.planning import device
from engine.planning.counter import StorageCounter

counter = StorageCounter(device.NAME)
with device.pretending(counter):
    given = torch.empty(2**20, device=device.DEVICE, requires_grad=True)
    counter.restart()
    torch.nn.functional.silu(given).backward(torch.empty(2**20, device=device.DEVICE))
    peak = counter.peak
    heads = torch.empty(1, 6, 2, 32, dtype=torch.bfloat16, device=device.DEVICE)
    norm = HeadNorm(32).bfloat16().to(device.DEVICE)
    with device.autocast(torch.bfloat16):
        normed = norm(heads)
print(json.dumps({"peak": peak / 2**22, "normed": str(normed.dtype)}))
"""
"""In a process of its own: the device stays for the whole process."""


@pytest.fixture(scope="module")
def probed() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_way_back_of_silu_is_one_kernel(probed: dict[str, Any]) -> None:
    """What was given, the result, its gradient and the gradient of what was given; no parts of the formula."""
    assert probed["peak"] == 4


def test_norms_of_flux_keep_half_precision_under_autocast(probed: dict[str, Any]) -> None:
    assert probed["normed"] == "torch.bfloat16"
