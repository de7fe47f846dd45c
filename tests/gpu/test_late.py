"""Updates on a GPU that the host reads late."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from engine.training.outcome import Readout

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_numbers_are_those_of_their_own_step() -> None:
    """Without waiting for what the device does after it, which changes their memory."""
    values = torch.tensor([1.0, math.nan], device="cuda")
    large = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    readout = Readout(values)
    for _ in range(50):
        large = large @ large * 1e-3
    values.fill_(2.0)
    done = torch.cuda.current_stream().record_event()
    loss, norm = readout.numbers
    assert not done.query(), "the host waited for the products"
    assert loss == 1.0 and math.isnan(norm)


def test_a_fused_optimizer_skips_an_update_on_the_device() -> None:
    results = []
    for flags in ([0.0, 1.0, 0.0], [0.0, 0.0]):
        parameter = nn.Parameter(torch.ones(1000, device="cuda"))
        optimizer: Any = torch.optim.AdamW([parameter], lr=0.1, fused=True)
        for flag in flags:
            parameter.grad = torch.full_like(parameter, math.nan if flag else 0.5)
            optimizer.found_inf = torch.full((), flag, device="cuda")
            optimizer.step()
        (state,) = optimizer.state.values()
        results.append([parameter.detach(), *(state[key] for key in ("exp_avg", "exp_avg_sq", "step"))])
    assert all(torch.equal(left, right) for left, right in zip(*results, strict=True))
