"""LoRAs that begin with a part of the base's weight: against numpy, from layer and from file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine.adapters.base_start import begin_with_base, principal_part
from engine.adapters.doubled import DoubledLoraModule
from engine.adapters.kinds.lora import Lora
from engine.adapters.network import AdapterNetwork
from engine.adapters.precision import EPSILON
from engine.config.network import NetworkTable
from engine.models.lora_names import ALPHA, DOWN, UP
from engine.training.measuring import disable_adapter
from engine.types import LoraTarget
from tests.refusals import refused

RANK, ALPHA_SET = 3, 6.0
SCALE = ALPHA_SET / RANK


class Layers(nn.Module):
    """A linear layer, a convolution, and three layers with the same input that are one in Kohya's files."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(8, 12)
        self.conv = nn.Conv2d(4, 6, 3, padding=1)
        self.q, self.k, self.v = nn.Linear(8, 5), nn.Linear(8, 5), nn.Linear(8, 7)
        self.small = nn.Linear(2, 12)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> list[torch.Tensor]:
        rows = [layer(x) for layer in (self.linear, self.q, self.k, self.v)]
        return [*rows, self.small(x[..., :2]), self.conv(image)]


TARGETS = {
    "linear": LoraTarget("unet", "linear", "lora_unet_linear", "linear"),
    "conv": LoraTarget("unet", "conv", "lora_unet_conv", "conv3x3"),
    "group": LoraTarget("unet", "q", "lora_unet_qkv", "linear", ("k", "v")),
    "split": LoraTarget("unet", "q", "lora_unet_qkv", "linear", ("k", "v"), is_split=True),
    "small": LoraTarget("unet", "small", "lora_unet_small", "linear"),
}


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, 9, 8, generator=generator), torch.randn(2, 4, 5, 5, generator=generator)


def attach(*targets: LoraTarget, how: str = "pissa", begin: bool = True, **table: Any) -> tuple[Layers, AdapterNetwork]:
    layers = Layers()
    network = NetworkTable.model_validate({
        "network_dim": RANK, "network_alpha": ALPHA_SET, "conv_dim": RANK, "conv_alpha": ALPHA_SET,
        "init_lora_weights": how, **table,
    })  # fmt: skip
    made = AdapterNetwork.attach(Lora(), {"unet": layers}, targets, network=network, log=lambda _: None)
    for module in made.modules if begin else ():
        assert isinstance(module, DoubledLoraModule)
        begin_with_base(module, network.initialisation, torch.Generator().manual_seed(0))
    return layers, made


def moved(network: AdapterNetwork, size: float = 0.3) -> AdapterNetwork:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return network


def weights_of(layers: Layers, target: LoraTarget) -> list[np.ndarray[Any, Any]]:
    bases = [layers.get_submodule(path).base_layer for path in target.paths]
    return [base.weight.detach().double().flatten(1).numpy() for base in bases]


def constants_of(module: Any) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """(A₀, B₀, A, B) of each layer, as numpy in float64."""
    results: tuple[list[Any], ...] = ([], [], [], [])
    for layer in module.layers:
        down, up = layer.lora_A["default"], layer.lora_B["default"]
        start = down.start.detach().double().flatten(1).numpy(), up.start.detach().double().flatten(1).numpy()
        change = [half.weight.detach().double().flatten(1).numpy() for half in (down, up)]
        for values, value in zip(results, (*start, start[0] + change[0], start[1] + change[1]), strict=True):
            values.append(value)
    return results  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["linear", "conv", "group", "split"])
@pytest.mark.parametrize("how", ["pissa", "olora"])
def test_it_begins_with_the_part_that_numpy_finds(name: str, how: str) -> None:
    layers, network = attach(TARGETS[name], how=how)
    starts = constants_of(network.modules[0])[:2]
    weights = weights_of(layers, TARGETS[name])
    parts = [b @ a for a, b in zip(*starts, strict=True)]
    if not TARGETS[name].is_split:
        weights, parts = [np.concatenate(weights)], [np.concatenate(parts)]
    for weight, part in zip(weights, parts, strict=True):
        if how == "pissa":
            left, values, right = np.linalg.svd(weight, full_matrices=False)
            expected = (left[:, :RANK] * values[:RANK]) @ right[:RANK] / SCALE
        else:
            q, r = np.linalg.qr(weight)
            expected = q[:, :RANK] @ r[:RANK]
        np.testing.assert_allclose(part, expected, atol=1e-5)


@pytest.mark.parametrize("name", TARGETS)
def test_the_base_is_unchanged_at_the_start_and_later_with_the_file_it_is_changed_as_in_training(name: str) -> None:
    target, plain = TARGETS[name], Layers()
    layers, network = attach(target)
    for training in (True, False):
        layers.train(training)
        for mine, base in zip(layers(*inputs()), plain(*inputs()), strict=True):
            assert torch.equal(mine, base), "no rounding: the differences are 0"
    weights = weights_of(layers, target)
    downs, ups, inner, outer = constants_of(moved(network).modules[0])
    changes = [SCALE * (b @ a - up @ down) for a, b, up, down in zip(inner, outer, ups, downs, strict=True)]
    state = {key.rpartition("lora_unet_")[2].partition(".")[2]: value for key, value in network.state().items()}
    alpha, rank = float(state[ALPHA]), len(state[DOWN])
    groups = len(target.paths) if target.is_split else 1
    assert rank == 2 * RANK * groups and alpha / rank == SCALE
    in_file = state[UP].double().flatten(1).numpy() @ state[DOWN].double().flatten(1).numpy() * (alpha / rank)
    np.testing.assert_allclose(in_file, np.concatenate(changes), atol=1e-6)
    with torch.no_grad():
        for path, weight, change in zip(target.paths, weights, changes, strict=True):
            layer = plain.get_submodule(path)
            layer.weight.copy_(torch.from_numpy(weight + change).view(layer.weight.shape))
    for training in (True, False):  # fused, and peft's own forward
        with torch.set_grad_enabled(training):
            for mine, merged in zip(layers.train(training)(*inputs()), plain(*inputs()), strict=True):
                torch.testing.assert_close(mine, merged, atol=2e-5, rtol=1e-5)
    with disable_adapter(network):
        for mine, base in zip(layers(*inputs()), Layers()(*inputs()), strict=True):
            assert torch.equal(mine, base)


@pytest.mark.parametrize("name", TARGETS)
def test_a_file_is_continued(name: str) -> None:
    first, network = attach(TARGETS[name])
    state = moved(network).state()
    second, other = attach(TARGETS[name], begin=False, network_alpha=1.0, conv_alpha=1.0)
    other.load(state, lambda _: None)
    for mine, theirs in zip(other.state().values(), state.values(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)
    for mine, theirs in zip(other.constants(), network.constants(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)
    for mine, theirs in zip(second(*inputs()), first(*inputs()), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    assert other.modules[0].is_loaded  # type: ignore[attr-defined]


def test_the_form_of_other_programs_has_the_same_effect() -> None:
    """[B, -B0] and [A; A0], as peft converts PiSSA."""
    first, network = attach(TARGETS["linear"])
    (module,) = moved(network).modules
    ((down,), (up,), (inner,), (outer,)) = constants_of(module)
    parts = {
        DOWN: torch.from_numpy(np.concatenate([inner, down])).float(),
        UP: torch.from_numpy(np.concatenate([outer, -up], axis=1)).float(),
        ALPHA: torch.tensor(2 * ALPHA_SET),
    }
    second, other = attach(TARGETS["linear"], begin=False)
    other.load({f"lora_unet_linear.{end}": tensor for end, tensor in parts.items()}, lambda _: None)
    torch.testing.assert_close(second(*inputs())[0], first(*inputs())[0], atol=1e-5, rtol=1e-5)


def test_a_file_that_joins_split_layers_is_refused() -> None:
    _, wide = attach(TARGETS["group"], network_dim=3 * RANK, network_alpha=3 * ALPHA_SET)
    _, split = attach(TARGETS["split"], begin=False)
    with refused("lora-not-split", "split_qkv"):
        split.load(moved(wide).state(), lambda _: None)
    _, narrow = attach(TARGETS["group"])
    split.load(moved(narrow).state(), lambda _: None)


def test_half_precision_rounds_the_change_and_not_the_weight() -> None:
    """A small change of a large part: in the form [B, -B0] · [A; A0] its rounding would be larger than it is."""
    _, network = attach(TARGETS["linear"])
    ((down,), (up,), (inner,), (outer,)) = constants_of(moved(network, 1e-3).modules[0])
    change = outer @ inner - up @ down
    state = {key.partition(".")[2]: value for key, value in network.state().items()}
    rounded = state[UP].bfloat16().double().numpy() @ state[DOWN].bfloat16().double().numpy()
    naive = [torch.from_numpy(part).bfloat16().double().numpy() for part in (outer, inner, up, down)]
    error = np.linalg.norm(rounded - change) / np.linalg.norm(change)
    assert error < EPSILON[torch.bfloat16]
    assert np.linalg.norm(naive[0] @ naive[1] - naive[2] @ naive[3] - change) / np.linalg.norm(change) > 0.3


@pytest.mark.parametrize("name", ["linear", "conv", "group", "split"])
@pytest.mark.parametrize("share", [0.9, 0.3, 0.01])
def test_the_norm_is_limited(name: str, share: float) -> None:
    _, network = attach(TARGETS[name])
    (module,) = moved(network).modules
    norm = _norm(module)
    assert float(module.squared_norm().sqrt()) == pytest.approx(norm, rel=1e-5)
    scaled, _, largest = network.apply_max_norm(norm * share)
    assert scaled == 1 and largest == pytest.approx(norm * share)
    assert _norm(module) == pytest.approx(norm * share, rel=1e-5)


def _norm(module: Any) -> float:
    state = module.state()
    change = state[UP].double().flatten(1) @ state[DOWN].double().flatten(1)
    return float(change.norm() * state[ALPHA] / len(state[DOWN]))


def test_gradients_are_those_of_both_matrices() -> None:
    layers, network = attach(TARGETS["linear"])
    moved(network)
    x = inputs()[0]
    layers.linear(x).square().sum().backward()
    ((down,), (up,), (inner,), (outer,)) = constants_of(network.modules[0])
    a, b = (torch.from_numpy(value).requires_grad_() for value in (inner, outer))
    base = torch.nn.functional.linear(x.double(), layers.linear.base_layer.weight.double())
    change = SCALE * (b @ a - torch.from_numpy(up @ down))
    (base + layers.linear.base_layer.bias.double() + x.double() @ change.T).square().sum().backward()
    for parameter, expected in zip(network.parameters(), (a.grad, b.grad), strict=True):
        assert expected is not None
        torch.testing.assert_close(parameter.grad, expected.float(), atol=1e-3, rtol=1e-4)
    assert not any(constant.requires_grad for constant in network.constants())


@pytest.mark.parametrize("dropout", [{"network_dropout": 0.5}, {"rank_dropout": 0.5}])
def test_dropouts_drop_a_rank_in_both_halves(dropout: dict[str, float]) -> None:
    """Else a part of the base would be missing."""
    for target in (TARGETS["linear"], TARGETS["conv"]):
        layers, network = attach(target, **dropout)
        layer = layers.get_submodule(target.path)
        seen = []
        layer.lora_B["default"].register_forward_pre_hook(lambda _, values, seen=seen: seen.append(values[0]))
        with torch.no_grad():
            for parameter in network.modules[0].parameters:
                parameter.fill_(0.5)
        layers.train()(*inputs())
        near, far = seen[0].chunk(2, dim=1 if seen[0].dim() == 4 else -1)
        assert torch.equal(near == 0, far == 0) and 0 < int((near == 0).sum()) < near.numel()


def test_large_matrices_are_decomposed_nearly_exactly() -> None:
    """A falling spectrum, as of trained weights: the part has nearly the norm of the best one."""
    generator = torch.Generator().manual_seed(1)
    left = torch.linalg.qr(torch.randn(700, 600, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(600, 600, generator=generator))[0]
    values = torch.arange(1, 601) ** -0.5
    down, up = principal_part((left * values) @ right, 16, torch.Generator().manual_seed(0))
    again, _ = principal_part((left * values) @ right, 16, torch.Generator().manual_seed(0))
    assert torch.equal(down, again)
    part = up @ down
    error = float(((left * values) @ right - part).norm())
    best = float(values[16:].norm())
    assert best <= error * (1 + 1e-5) and error < best * 1.001
    torch.testing.assert_close(down.norm(dim=1), up.norm(dim=0), rtol=1e-3, atol=0)


def test_ranks_above_the_layers_own_can_learn() -> None:
    _, network = attach(replace(TARGETS["small"]))
    (downs, ups, _, _) = constants_of(network.modules[0])
    assert (np.abs(downs[0]).sum(axis=1) > 0).all() and (np.abs(ups[0]).sum(axis=0) > 0).tolist() == [True, True, False]
