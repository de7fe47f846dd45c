"""T-LoRA's mask: which ranks a sample uses, by its timestep; in training only."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from engine.adapters.network import AdapterNetwork
from engine.adapters.rank_mask import RankMask
from engine.types import LoraTarget
from tests.engine.adapters.test_doubled import RANK, TARGETS, Layers, attach, inputs, moved

TEXT = LoraTarget("unet", "linear", "lora_te_linear", "linear")


@pytest.mark.parametrize(
    ("timestep", "minimum", "exponent", "rank", "used"),
    [
        (0, 1, 1.0, 16, 16),
        (1000, 1, 1.0, 16, 1),
        (999, 1, 1.0, 16, 1),
        (500, 1, 1.0, 17, 9),
        (900, 6, 1.0, 16, 7),  # 0.1 · 10 is 1, not a little less
        (500, 8, 1.0, 16, 12),
        (500, 1, 2.0, 17, 5),
        (750, 1, 0.5, 17, 9),
        (1000, 32, 1.0, 16, 16),  # a layer with fewer ranks uses all
        (333.5, 1, 1.0, 16, 10),
    ],
)
def test_the_ranks_of_a_timestep(timestep: float, minimum: int, exponent: float, rank: int, used: int) -> None:
    mask = RankMask(minimum, exponent)
    mask.add(torch.nn.Linear(2, rank), rank)
    mask.follow(torch.tensor([timestep]))
    assert mask.of(rank).tolist() == [[number < used for number in range(rank)]]


def expected(network: AdapterNetwork, layers: Layers, name: str, ranks: list[int]) -> torch.Tensor:
    """The outputs of a layer where each sample uses its own number of ranks."""
    plain, (x, image) = Layers(), inputs()
    state = {key.partition(".")[2]: value for key, value in network.state().items()}
    target, results = TARGETS[name], []
    for number, rank in enumerate(ranks):
        halves = [0] if len(state["lora_down.weight"]) == RANK else [0, RANK]
        kept = torch.tensor([row for first in halves for row in range(first, first + rank)])
        down, up = state["lora_down.weight"][kept], state["lora_up.weight"][:, kept]
        change = up.flatten(1) @ down.flatten(1) * 2.0
        layer = plain.get_submodule(target.path)
        before = layer.weight.detach().clone()
        with torch.no_grad():
            layer.weight += change[: len(layer.weight)].view(layer.weight.shape)
        results.append(layer((image if name == "conv" else x)[number : number + 1]))
        with torch.no_grad():
            layer.weight.copy_(before)
    return torch.cat(results)


@pytest.mark.parametrize("how", ["default", "pissa"])
@pytest.mark.parametrize("name", ["linear", "conv", "group"])
def test_each_sample_has_its_own_mask_in_training_only(how: str, name: str) -> None:
    layers, network = attach(TARGETS[name], how=how, begin=how == "pissa", tlora_min_rank=1)
    moved(network)
    network.follow(torch.tensor([1000, 400]))  # 1 rank; int(0.6 · 2) + 1 ranks
    layer, x = layers.get_submodule(TARGETS[name].path), inputs()[name == "conv"]
    masked = expected(network, layers, name, [1, 2])
    torch.testing.assert_close(layer.train()(x), masked, atol=1e-5, rtol=1e-5)
    if name == "linear":  # [B, in], as of embeddings of the timestep
        torch.testing.assert_close(layer(x[:, 0]), masked[:, 0], atol=1e-5, rtol=1e-5)
    unmasked = expected(network, layers, name, [RANK, RANK])
    torch.testing.assert_close(layer.eval()(x), unmasked, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(masked, unmasked, atol=1e-2)


def test_ranks_that_no_sample_uses_get_no_gradient_and_a_recomputed_forward_the_same() -> None:
    layers, network = attach(TARGETS["linear"], how="default", begin=False, tlora_min_rank=1)
    moved(network)
    network.follow(torch.tensor([1000, 400]))
    gradients = []
    x = inputs()[0].requires_grad_()
    for run in (layers.train().linear, lambda x: checkpoint(layers.linear, x, use_reentrant=False)):
        run(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
        network.modules[0].down.grad = network.modules[0].up.grad = None  # type: ignore[attr-defined]
    for mine, again in zip(*gradients, strict=True):
        assert torch.equal(mine, again)
    down, up = gradients[0]
    assert down[:2].any(dim=1).all() and not down[2].any() and not up[:, 2].any()


def test_text_encoders_and_runs_without_it_have_no_hooks() -> None:
    for target, settings in ((TEXT, {"tlora_min_rank": 1}), (TARGETS["linear"], {})):
        layers, network = attach(target, how="default", begin=False, **settings)
        network.follow(torch.tensor([1000, 400]))
        assert not layers.linear.lora_A["default"]._forward_hooks
