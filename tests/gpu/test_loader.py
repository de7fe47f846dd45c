"""Batches that are copied on a stream of their own arrive whole, and their memory is not used again too early."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from typing_extensions import override

from engine.dataset.store import DeviceStore, TensorStore
from engine.training.batch_source import Batch, Inputs
from engine.training.loader import BatchLoader
from tests.engine.training.test_loader import Source

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
UPDATES, CELLS = 100, 512


class Large(Source):
    """Batches of a MiB; a kept tensor of each item is added to them on the device."""

    def __init__(self, device: torch.device, *, pixels_only: bool) -> None:
        super().__init__(pixels_only=pixels_only)
        host = TensorStore(None)
        for item in range(2 * UPDATES):
            host.save(str(item), {"text": torch.full((CELLS, CELLS), float(item))})
        self.store = DeviceStore(host, device)

    @property
    @override
    def plan(self) -> Any:
        return type("Plan", (), {"max_train_steps": UPDATES})

    @override
    def inputs(self, indices: list[int], step: int) -> Inputs:
        inputs = super().inputs(indices, step)
        kept = self.store.load(str(indices[0] % 10))
        assert kept is not None
        return replace(inputs, text={"text": torch.stack([kept["text"]])})

    @override
    def batch(self, inputs: Inputs, numbers: torch.Generator, objective: object) -> Batch:
        batch = super().batch(inputs, numbers, objective)
        return replace(batch, latents=batch.latents[..., :1].expand(1, 1, CELLS, CELLS).contiguous())


@pytest.mark.parametrize("pixels_only", [False, True])
def test_batches_arrive_whole_while_the_card_is_busy(pixels_only: bool) -> None:
    device = torch.device("cuda", 0)
    work = torch.randn(4096, 4096, device=device)
    read = []
    with BatchLoader(cast("Any", Large(device, pixels_only=pixels_only)), cast("Any", None), device) as loader:
        for step in range(UPDATES):
            for micro in range(2):
                batch = loader.load(step, micro)
                work = (work @ work).clamp(-1, 1)  # the batch is read long after it was freed by Python
                values = batch.latents, batch.text["text"]
                read.append(torch.stack([*(tensor.amin() for tensor in values), *(tensor.amax() for tensor in values)]))
                del batch, values
    expected = [[item, item % 10] * 2 for item in range(2 * UPDATES)]
    assert torch.stack(read).cpu().int().tolist() == expected
