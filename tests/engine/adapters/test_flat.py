"""Flat parameters: the gradients of slots are those of autograd, for every kind of layer that has one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.adapters.flat import FlatParameters
from engine.adapters.fused import FusedConv2d, FusedLinear
from engine.adapters.joint import Joint
from engine.adapters.network import AdapterNetwork
from tests.small_denoisers import SMALL, Small

RUNGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointed": {"gradient_checkpointing": True},
    "offloaded": {"gradient_checkpointing": True, "cpu_offload_checkpointing": True},
    "int8": {"base_precision": "int8"},
    "split": {"split_mode": True},
}


def flattened(network: AdapterNetwork, dtype: torch.dtype = torch.float32) -> FlatParameters:
    outer = [parameter for module in network.modules for parameter in module.outer]
    flat = FlatParameters([network.parameters()], outer, dtype)
    with_slot = set(map(id, network.use_flat(flat)))
    flat.give_gradients([parameter for parameter in flat.parameters() if id(parameter) not in with_slot])
    return flat


def loss_of(small: Small, dtype: torch.dtype, context: AbstractContextManager[Any]) -> Tensor:
    with context:
        return small.denoiser(**small.inputs(dtype)).sample.float().square().mean()


def flat_step(small: Small, flat: FlatParameters, dtype: torch.dtype = torch.float32) -> tuple[float, list[Tensor]]:
    """The loss and the gradient of each parameter."""
    with flat.step():
        loss = loss_of(small, dtype, nullcontext())
        loss.backward()
        flat.collect()
    (group,) = flat.groups
    assert group.grad is not None
    return loss.item(), [gradient.clone() for gradient in flat.by_parameter(0, group.grad)]


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("kind", SMALL)
def test_the_gradients_are_those_of_autograd(kind: str, rung: str) -> None:
    loss, expected = SMALL[kind]().climb(**RUNGS[rung]).step()
    small = SMALL[kind]().climb(**RUNGS[rung])
    flat = flattened(small.network)
    mine, gradients = flat_step(small, flat)
    assert mine == pytest.approx(loss, rel=1e-6)
    assert len(gradients) == len(expected) == len(small.network.parameters())
    for gradient, other in zip(gradients, expected, strict=True):
        assert gradient.shape == other.shape and other.norm() > 0
        assert (gradient - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("kind", SMALL)
def test_checkpointing_changes_no_bit(kind: str) -> None:
    results = []
    for rung in ("plain", "checkpointed", "offloaded"):
        small = SMALL[kind]().climb(**RUNGS[rung])
        results.append(flat_step(small, flattened(small.network)))
    for loss, gradients in results[1:]:
        assert loss == results[0][0]
        assert all(torch.equal(mine, other) for mine, other in zip(gradients, results[0][1], strict=True))


@pytest.mark.parametrize("kind", SMALL)
def test_in_bf16_no_further_from_the_truth_than_autocast(kind: str) -> None:
    """Two sums in bf16 differ by their roundings; the measure is the distance of each from fp32."""
    dtype = torch.bfloat16

    def in_fp32() -> Small:
        small = SMALL[kind](dtype).climb()
        nn.Module.to(small.denoiser, torch.float32)
        return small

    _, truth = in_fp32().step()
    small = SMALL[kind](dtype).climb()
    small.network.rely_on_autocast(True)
    loss_of(small, dtype, torch.autocast("cpu", dtype)).backward()
    with_autocast = [parameter.grad for parameter in small.network.parameters()]
    small = SMALL[kind](dtype).climb()
    _, gradients = flat_step(small, flattened(small.network, dtype), dtype)

    def distance(of: Sequence[Tensor | None]) -> float:
        pairs = zip(of, truth, strict=True)
        return sum(((mine - exact).norm() / exact.norm()).item() for mine, exact in pairs if mine is not None)

    assert 0 < distance(gradients) <= 1.15 * distance(with_autocast)


@pytest.mark.parametrize("kind", SMALL)
def test_every_layer_has_a_slot_and_uses_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = SMALL[kind]().climb()
    flat = flattened(small.network)
    layers = [layer for layer in small.denoiser.modules() if isinstance(layer, FusedLinear | FusedConv2d)]
    assert layers and all(layer.slot is not None for layer in layers)
    flat_step(small, flat)
    assert all(parameter.grad is None for parameter in small.network.parameters())
    assert flat.gradients is not None and flat.gradients.count_nonzero() > 0
    flat.clear()
    assert not flat.gradients.any() and flat.groups[0].grad is None


def test_queries_keys_and_values_are_one_pass() -> None:
    small = SMALL["unet"]().climb()
    flat = flattened(small.network)
    flat_step(small, flat)
    joints = list(flat.joints.values())
    assert all(isinstance(joint, Joint) for joint in joints)
    assert sorted(len(joint.members) for joint in joints) == [2, 2, 2, 2, 3, 3, 3, 3]  # of text, of the image


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_add_up(dtype: torch.dtype) -> None:
    small = SMALL["unet"](dtype).climb()
    flat = flattened(small.network, dtype)
    _, once = flat_step(small, flat, dtype)
    _, twice = flat_step(small, flat, dtype)
    for first, second in zip(once, twice, strict=True):
        assert (second - 2 * first).norm() <= 1e-6 * second.norm()
    flat.clear()
    _, again = flat_step(small, flat, dtype)
    assert all(torch.equal(first, second) for first, second in zip(once, again, strict=True))


def test_outside_of_a_step_layers_compute_from_the_parameters() -> None:
    small = SMALL["unet"](torch.bfloat16).climb()
    flat = flattened(small.network, torch.bfloat16)
    flat.allocate()
    assert flat.values is not None
    with torch.no_grad():
        before = small.predict()
        flat.values.fill_(7)
        assert torch.equal(small.predict(), before)
        for parameter in small.network.parameters():
            parameter.mul_(2)
        assert not torch.equal(small.predict(), before)
    assert torch.equal(flat.by_parameter(0, flat.masters)[0], small.network.parameters()[0])
    with flat.step():
        assert not (flat.values == 7).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_phase_gets_the_memory_of_the_slots(dtype: torch.dtype) -> None:
    small = SMALL["unet"](dtype).climb()
    flat = flattened(small.network, dtype)
    loss, gradients = flat_step(small, flat, dtype)
    flat.clear()
    flat.release()
    assert not flat.memory() and flat.values is None
    assert all(parameter.grad is None for parameter in small.network.parameters())
    with torch.no_grad():
        assert torch.isfinite(small.predict()).all()
    again, others = flat_step(small, flat, dtype)
    assert again == loss and all(torch.equal(mine, other) for mine, other in zip(gradients, others, strict=True))


def test_a_shared_inner_matrix_gets_the_gradient_of_all_its_layers() -> None:
    """FLUX's queries, keys and values are one layer in Kohya's files, with one inner matrix."""
    small = SMALL["flux"]().climb()
    expected = SMALL["flux"]().climb().step()[1]
    network, down = small.network, small.network.modules[0].layers[0].lora_A["default"].weight
    assert sum(parameter is down for parameter in network.parameters()) == 1
    _, gradients = flat_step(small, flattened(network))
    assert torch.allclose(gradients[0], expected[0], rtol=1e-4, atol=1e-8)
