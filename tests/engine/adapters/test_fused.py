"""The fused layers give what peft's own give, forwards and backwards."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from peft.tuners.lora.layer import Conv2d, Linear

from engine.adapters.fused import FusedConv2d, FusedLinear


def training_step(tiny, network, dtype):
    """The denoiser's output, and the gradient of each LoRA parameter."""
    with torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext():
        output = tiny.forward()
    output.float().square().mean().backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = None
    return output.detach().float(), gradients


def unfuse(network):
    for module in network.modules:
        module.layers[0].__class__ = {FusedLinear: Linear, FusedConv2d: Conv2d}[type(module.layers[0])]


def both(make, filled, dtype):
    """A training step with the fused layers, and one of the same adapter with peft's own."""
    tiny = make(dtype)
    network = tiny.attach(conv=True, conv_dim=2)
    filled(network)
    network.rely_on_autocast(dtype != torch.float32)
    mine = training_step(tiny, network, dtype)
    unfuse(network)
    theirs = training_step(tiny, network, dtype)
    assert len(mine[1]) == len(theirs[1]) == 2 * len(network.modules)
    assert all(gradient.dtype == torch.float32 for gradient in mine[1])
    return mine, theirs


def test_same_output_and_gradients_as_peft(make, filled):
    (output, gradients), (expected, expected_gradients) = both(make, filled, torch.float32)
    assert (output - expected).norm() <= 1e-5 * expected.norm()
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        assert theirs.norm() > 0
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()


def test_in_bf16_no_further_from_the_truth_than_peft(make, filled):
    """Two sums in bf16 differ by their roundings; the measure is the distance of each from fp32."""
    mine, theirs = both(make, filled, torch.bfloat16)
    _, truth = both(make, filled, torch.float32)

    def distance(step):
        return sum(((a - b).norm() / b.norm()).item() for a, b in zip(step[1], truth[1], strict=True))

    assert distance(mine) <= 1.1 * distance(theirs)
    assert (mine[0] - truth[0]).norm() <= 0.05 * truth[0].norm()


def test_the_fused_step_is_taken(tiny, filled, monkeypatch):
    network = tiny.attach(conv=True, conv_dim=2)
    filled(network)

    def never(*_):
        raise AssertionError("peft's own forward")

    monkeypatch.setattr(Linear, "forward", never)
    monkeypatch.setattr(Conv2d, "forward", never)
    assert torch.isfinite(tiny.forward()).all()


@pytest.mark.parametrize("dropout", ["network_dropout", "rank_dropout"])
def test_dropouts_go_through_peft(tiny, filled, dropout):
    network = tiny.attach(**{dropout: 0.5})
    filled(network)
    network.train()
    torch.manual_seed(1)
    mine = tiny.forward()
    unfuse(network)
    torch.manual_seed(1)
    assert torch.equal(mine, tiny.forward())


def test_a_disabled_adapter_leaves_the_base(tiny, filled):
    before = tiny.forward()
    network = tiny.attach()
    filled(network)
    assert not torch.equal(tiny.forward(), before)
    for module in network.modules:
        module.layers[0].enable_adapters(False)
    assert torch.equal(tiny.forward(), before)
