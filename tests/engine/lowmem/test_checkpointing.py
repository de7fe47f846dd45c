"""The ladder of gradient checkpointing: to the bit the same gradients, and ever fewer bytes kept for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.lowmem import checkpointing
from tests.small_denoisers import SMALL, small_unet

RUNGS: tuple[dict[str, object], ...] = (
    {},
    {"gradient_checkpointing": True, "checkpointed_blocks": 2},
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": True, "cpu_offload_checkpointing": True},
)


def kept_bytes(small: Any) -> int:
    """Bytes that the graph of one forward pass holds in distinct storages, what was moved to the host apart."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    own = {parameter.untyped_storage()._cdata for parameter in small.denoiser.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        small.predict()
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)


@pytest.mark.parametrize("kind", SMALL)
def test_each_rung_gives_the_same_gradients_and_keeps_less(kind: str) -> None:
    loss, gradients = SMALL[kind]().climb().step()
    kept = []
    for rung in RUNGS:
        small = SMALL[kind]().climb(**rung)
        kept.append(kept_bytes(small))
        mine, others = small.step()
        assert mine == loss
        assert all(torch.equal(first, second) for first, second in zip(others, gradients, strict=True))
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == len(kept), kept


def test_only_what_carries_a_gradient_goes_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.Size] = []
    to_host = checkpointing._OnHost.__init__

    def noted(self: Any, tensor: Tensor) -> None:
        moved.append(tensor.shape)
        to_host(self, tensor)

    monkeypatch.setattr(checkpointing._OnHost, "__init__", noted)
    small = SMALL["flux"]().climb(gradient_checkpointing=True, cpu_offload_checkpointing=True)
    small.step()
    # Images and text of four blocks: before the first one nothing has a gradient yet.
    assert sorted(moved) == sorted([torch.Size([2, 16, 64]), torch.Size([2, 6, 64])] * 4)
    assert any("saves nothing" in sentence for sentence in small.messages)


def test_which_blocks_are_recomputed() -> None:
    flux, unet = SMALL["flux"]().blocks, small_unet().blocks
    assert checkpointing._checkpointed(flux, 2) == flux[:2]
    assert checkpointing._checkpointed(unet, 1) == [unet[4]], "the last up block keeps the most"
    assert checkpointing._checkpointed(unet, 3) == [unet[0], unet[3], unet[4]]
    assert checkpointing._checkpointed(unet, None) == checkpointing._checkpointed(unet, 9) == unet


def test_the_number_is_logged() -> None:
    small = small_unet().climb(gradient_checkpointing=True, checkpointed_blocks=3)
    assert "Gradient checkpointing in 3 of 5 blocks (checkpointed_blocks)." in small.messages
    small = small_unet().climb(gradient_checkpointing=True, checkpointed_blocks=7)
    assert "Gradient checkpointing in all 5 blocks: checkpointed_blocks excludes none." in small.messages
