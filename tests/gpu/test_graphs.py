"""CUDA graphs on a GPU: twenty updates from recordings give the bytes of twenty without, and the peak of memory."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.config import RunConfig
from engine.training.batch_source import Batch
from engine.training.exactness import set_determinism
from engine.training.flat_update import update_layout
from engine.training.graphs import CudaCapturer, GraphedPasses
from engine.training.objective import Noise
from engine.training.optimizers import build_optimizer
from tests.small_denoisers import SMALL

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as in the trainer's environment
UPDATES = 20


def batch_of(inputs: dict[str, Tensor]) -> Batch:
    """The denoiser's inputs, as parts of a batch that a graph copies."""
    empty = torch.zeros(1, device="cuda")
    return Batch(empty, Noise(empty, empty, None), ["a"], {}, inputs, empty, None, empty)


def trained(kind: str, *, graphs: bool, **memory: Any) -> tuple[list[float], Tensor, list[str]]:
    """Losses, weights, and what was logged."""
    small = SMALL[kind](torch.bfloat16, "cuda").climb(**memory)
    config = RunConfig().changed(memory={"torch_compile": memory.get("torch_compile", "off")})
    layout = update_layout(small.network, config, torch.bfloat16)
    optimizer = build_optimizer("AdamW", [], layout.groups).optimizer
    messages: list[str] = []
    assert layout.flat is not None

    def compute(batch: Batch, parts: int) -> Tensor:
        loss = small.denoiser(**batch.text).sample.float().square().mean()
        (loss / parts).backward()
        return loss.detach()

    passes = GraphedPasses(compute, layout.flat.memory, CudaCapturer(), messages.append, exact=True, wait=lambda: None)
    losses = []
    for update in range(UPDATES):
        draws = torch.Generator().manual_seed(update)
        inputs = {
            name: (value + torch.randn(value.shape, generator=draws).to(value) if value.is_floating_point() else value)
            .to("cuda")
            for name, value in small.inputs(torch.bfloat16).items()
        }  # fmt: skip
        with layout.step:
            loss = passes(batch_of(inputs), 1) if graphs else compute(batch_of(inputs), 1)
            layout.collect()
        losses.append(float(loss))
        torch.nn.utils.clip_grad_norm_(layout.holders, 1.0)
        optimizer.step()
        layout.clear()
        if update == UPDATES // 2:
            passes.release()
    return losses, layout.flat.masters.clone(), messages


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize(
    "memory",
    [
        {},
        {"gradient_checkpointing": True},
        {"base_precision": "int8"},
        {"base_precision": "fp8"},
        {"torch_compile": "on"},
        {"torch_compile": "on", "gradient_checkpointing": True},
    ],
)
def test_recordings_give_the_same_bytes(kind: str, memory: dict[str, Any]) -> None:
    set_determinism()
    torch.use_deterministic_algorithms(True)
    try:
        plain, recorded = (trained(kind, graphs=graphs, **memory) for graphs in (False, True))
    finally:
        torch.use_deterministic_algorithms(False)
    assert recorded[2] == ["Training steps are launched as CUDA graphs, one for each shape of a batch."]
    assert recorded[0] == plain[0]
    assert torch.equal(recorded[1], plain[1])
