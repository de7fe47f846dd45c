"""Split mode: with any number of blocks off the device, to the bit what the resident model computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.lowmem import block_swap
from engine.lowmem.block_swap import WeightRing
from engine.lowmem.frozen import FrozenLayer
from tests.small_denoisers import SMALL, Small, small_flux


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small blocks are cut, and the ring has to turn."""
    monkeypatch.setattr(block_swap, "PIECE", 40_000)


@pytest.fixture(scope="module", params=SMALL)
def plain(request: pytest.FixtureRequest) -> tuple[str, list[float], list[Tensor]]:
    """A loss, and the gradients of the step after it, without split mode."""
    small = SMALL[request.param]().climb()
    losses = small.steps(1)
    return request.param, losses, small.step()[1]


def same(plain: tuple[str, list[float], list[Tensor]], **memory: object) -> Small:
    """Run it with `memory`: all losses and gradients are those of the plain model."""
    kind, losses, gradients = plain
    small = SMALL[kind]().climb(**memory)
    assert small.steps(1) == losses
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(small.step()[1], gradients, strict=True))
    return small


@pytest.mark.parametrize(("count", "checkpointing"), [(1, False), (3, False), (5, False), (5, True)])
def test_any_number_of_blocks_gives_the_same_losses_and_gradients(plain: Any, count: int, checkpointing: bool) -> None:
    small = same(plain, split_mode=True, blocks_to_swap=count, gradient_checkpointing=checkpointing)
    ring = small.placement.ring
    assert ring is not None and len(ring.pieces) > 4, "more pieces than slots"
    moved = [
        block
        for block in small.blocks
        if any(layer.offloaded for layer in block.modules() if isinstance(layer, FrozenLayer))
    ]
    assert len(moved) == count


def test_with_offloaded_activations_too(plain: Any) -> None:
    same(plain, split_mode=True, cpu_offload_checkpointing=True, gradient_checkpointing=True)


def test_more_blocks_than_there_are_is_logged(plain: Any) -> None:
    small = same(plain, split_mode=True, blocks_to_swap=40)
    assert "blocks_to_swap 40: this model has 5 blocks, and all of them are swapped." in small.messages


@pytest.mark.parametrize("precision", ["int8", "fp8", "nf4"])
def test_codes_are_swapped_as_well(precision: str) -> None:
    resident = small_flux().climb(base_precision=precision)
    swapped = small_flux().climb(base_precision=precision, split_mode=True, gradient_checkpointing=True)
    ring = swapped.placement.ring
    assert ring is not None
    layers = [layer for block in resident.blocks for layer in block.modules() if isinstance(layer, FrozenLayer)]
    codes = sum(getattr(layer, name).nbytes for layer in layers for name in layer.packed_names)
    assert codes <= ring.host_bytes <= codes + 512 * len(layers), "codes and scales, aligned"
    assert swapped.steps(3) == resident.steps(3)


def test_weights_wait_on_the_host_and_nothing_drags_them_away(monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_flux().climb(split_mode=True)
    layers = [layer for layer in small.denoiser.modules() if isinstance(layer, FrozenLayer)]
    norm = small.denoiser.transformer_blocks[0].attn.norm_q.weight
    small.denoiser.to("meta")
    assert all(layer.weight.device.type == "cpu" for layer in layers)
    assert small.denoiser.transformer_blocks[0].attn.norm_q.weight.device.type == "meta" != norm.device.type
    nn.Module.to(small.denoiser, torch.float64)
    assert {layer.weight.dtype for layer in layers} == {torch.float32}


def test_slots_are_given_back_with_the_denoiser() -> None:
    small = small_flux().climb(split_mode=True)
    ring = small.placement.ring
    assert ring is not None
    before = small.steps(1)
    small.placement.release("denoiser")
    assert not ring._slots and not ring._slot_of
    small.placement.acquire("denoiser")
    again = small_flux().climb(split_mode=True)
    assert [*before, *small.steps(2)] == again.steps(3)


def test_the_ring_learns_what_comes_next() -> None:
    """Forward and backward, again and again: after the very first piece, each is there before it is asked for."""
    ring = WeightRing(
        [torch.full((8,), number, dtype=torch.uint8) for number in range(9)], torch.device("cpu"), slots=3
    )
    order = [*range(9), *reversed(range(9))]
    late = []
    for _ in range(3):
        missing = 0
        for piece in order:
            missing += piece not in ring._slot_of
            assert ring.fetch(piece).tolist() == [piece] * 8
        late.append(missing)
    assert late == [1, 0, 0]
    assert ring.slot_bytes == 24 and ring.host_bytes == 72


def test_the_ring_is_right_in_any_order() -> None:
    ring = WeightRing(
        [torch.full((4,), number, dtype=torch.uint8) for number in range(6)], torch.device("cpu"), slots=2
    )
    generator = torch.Generator().manual_seed(0)
    for piece in torch.randint(0, 6, (300,), generator=generator).tolist():
        assert ring.fetch(piece).tolist() == [piece] * 4


def test_without_a_gradient_too() -> None:
    plain, swapped = small_flux().climb(), small_flux().climb(split_mode=True)
    with torch.no_grad():
        for small in (plain, swapped):
            small.denoiser.eval()
        assert torch.equal(plain.predict(), swapped.predict())
