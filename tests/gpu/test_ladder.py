"""The memory ladder on a GPU: the streams keep their order, the peak falls, kernels decode what the CPU does."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.lowmem import block_swap
from engine.lowmem.base_precision import QuantisedLinear
from engine.lowmem.frozen import FrozenLayer
from engine.training.exactness import set_determinism
from tests.small_denoisers import SMALL, Small, small_flux

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as in the trainer's environment

WIDE: dict[str, Any] = {"attention_head_dim": 64, "num_attention_heads": 16, "axes_dims_rope": (16, 24, 24)}
"""1024 wide: blocks of 18 to 28 MiB in bf16, so that copies take long enough to go wrong."""


@pytest.fixture(autouse=True)
def exact() -> Any:
    """Kernels that add in one order, so that two runs can be compared to the bit."""
    set_determinism()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def on_gpu(kind: str, **memory: object) -> Small:
    return SMALL[kind](torch.bfloat16, "cuda").climb(**memory)


def wide(**memory: object) -> Small:
    return small_flux(torch.bfloat16, "cuda", **WIDE).climb(**memory)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_copy_overtakes_a_product(kind: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 steps in small pieces, through a ring that turns many times a step: the same losses as without."""
    monkeypatch.setattr(block_swap, "PIECE", 100_000)
    plain = on_gpu(kind, gradient_checkpointing=checkpointing).steps(50)
    for count in (1, 3, None):
        swapped = on_gpu(kind, gradient_checkpointing=checkpointing, split_mode=True, blocks_to_swap=count)
        assert swapped.steps(50) == plain, f"{count} blocks"


@pytest.mark.parametrize("precision", ["auto", "int8", "fp8", "nf4"])
def test_large_pieces_in_every_precision(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if precision == "nf4":
        pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(block_swap, "PIECE", 8 * 2**20)
    resident = wide(base_precision=precision, gradient_checkpointing=True)
    wanted = resident.steps(50)
    swapped = wide(
        base_precision=precision, split_mode=True, cpu_offload_checkpointing=True, gradient_checkpointing=True
    )
    assert swapped.steps(50) == wanted


def test_weights_wait_in_pinned_memory_and_the_peak_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_swap, "PIECE", 4 * 2**20)
    peaks = []
    for memory in ({}, {"split_mode": True, "blocks_to_swap": 3}, {"split_mode": True}):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        small = wide(gradient_checkpointing=True, **memory)
        small.steps(2)
        peaks.append(torch.cuda.max_memory_allocated() - before)
        ring = small.placement.ring
        if ring is not None:
            layers = [layer for layer in small.denoiser.modules() if isinstance(layer, FrozenLayer) and layer.offloaded]
            assert all(piece.is_pinned() for piece in ring.pieces)
            assert all(not layer.weight.is_cuda for layer in layers)
            small.placement.release("denoiser")
            assert torch.cuda.memory_allocated() - before < ring.slot_bytes
        del small, ring
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[2] < 0.6 * peaks[0]


def test_offloaded_activations_leave_the_card() -> None:
    """What the forward pass leaves on the card, with the inputs of the checkpoints there and on the host."""
    kept = []
    for offload in (False, True):
        small = wide(gradient_checkpointing=True, cpu_offload_checkpointing=offload)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        loss = small.predict().square().mean()
        torch.cuda.synchronize()
        kept.append(torch.cuda.memory_allocated() - before)
        loss.backward()
        del small, loss
    assert kept[1] < kept[0]


@pytest.mark.parametrize("precision", ["int8", "fp8", "nf4"])
def test_the_gpu_decodes_what_the_cpu_decodes(precision: str) -> None:
    if precision == "nf4":
        pytest.importorskip("bitsandbytes")

    def decoded(device: str) -> list[Tensor]:
        small = small_flux(torch.bfloat16, device).climb(base_precision=precision)
        layers = [layer for layer in small.denoiser.modules() if isinstance(layer, QuantisedLinear)]
        return [layer.dequantize(torch.float32).cpu() for layer in layers]

    for mine, theirs in zip(decoded("cuda"), decoded("cpu"), strict=True):
        assert torch.equal(mine, theirs)


def test_compiled_blocks_learn_the_same() -> None:
    compiled, plain = wide(torch_compile="on"), wide()
    for mine, theirs in zip(compiled.steps(5), plain.steps(5), strict=True):
        assert mine == pytest.approx(theirs, rel=0.02)
    assert not any("no longer compiled" in sentence for sentence in compiled.messages), compiled.messages
