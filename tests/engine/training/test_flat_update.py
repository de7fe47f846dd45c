"""The optimizer's update of flat parameters: the same values and the same saved state as parameter by parameter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from engine.adapters.network import AdapterNetwork
from engine.config import RunConfig
from engine.config.optimizers import is_installed, source_of
from engine.training.flat_update import UpdateLayout, update_layout
from engine.training.groups import parameter_groups
from engine.training.optimizer_probe import load_optimizer
from engine.training.optimizers import build_optimizer
from tests.engine.adapters.conftest import make_tiny
from tests.small_denoisers import SMALL

IN_PLACE = ["AdamW", "Adam", "SGDNesterov", "RMSprop", "Adafactor", "Lion", "Prodigy", "AdamWScheduleFree"]


def configured(optimizer: str = "AdamW", **tables: dict[str, Any]) -> RunConfig:
    values = {"training": {"optimizer_type": optimizer, "max_grad_norm": 1.0, "unet_lr": 1e-2}, **tables}
    return RunConfig().changed(**values)


def network_of(kind: str = "unet") -> AdapterNetwork:
    return SMALL[kind]().climb().network


def filled(layout: UpdateLayout, parameters: list[Any], update: int) -> None:
    """Gradients that follow from the number of the update."""
    draws = torch.Generator().manual_seed(update)
    if layout.flat is not None:
        layout.allocate()
        layout.flat.collect()
    for number, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=draws)
        if layout.joined:
            assert layout.flat is not None
            (group,) = layout.flat.groups
            assert group.grad is not None
            layout.flat.by_parameter(0, group.grad)[number].copy_(gradient)
        elif parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad.copy_(gradient)


def trained(config: RunConfig, *, flat: bool, saved: dict[str, Any] | None = None) -> tuple[list[Any], dict[str, Any]]:
    """Parameters and saved state after three updates, or after three more from `saved`."""
    network = network_of()
    parameters = network.parameters()
    layout = update_layout(network, config, torch.float32 if flat else None)
    assert (layout.flat is not None) == flat
    built = build_optimizer(config.training.optimizer_type, [], layout.groups)
    if built.schedule_free:
        built.optimizer.train()  # type: ignore[attr-defined]
    if saved is not None:
        with torch.no_grad():
            for parameter, value in zip(parameters, saved["adapter"], strict=True):
                parameter.copy_(value)
        load_optimizer(built.optimizer, layout.as_joined(saved["optimizer"]))
    for update in range(3) if saved is None else range(3, 6):
        filled(layout, parameters, update)
        torch.nn.utils.clip_grad_norm_(layout.holders, 1.0)
        built.optimizer.step()
        layout.clear()
    state = {
        "adapter": [parameter.detach().clone() for parameter in parameters],
        "optimizer": layout.by_parameter(built.optimizer.state_dict()),
    }
    return parameters, state


def same(first: Any, second: Any) -> bool:
    """Equal up to the rounding of the norm, which is summed in another order; Prodigy's rate depends on sums too."""
    if isinstance(first, torch.Tensor):
        return first.shape == second.shape and torch.allclose(first, second, rtol=1e-4, atol=1e-6)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == pytest.approx(second, rel=1e-4) if isinstance(first, float) else first == second)


@pytest.mark.parametrize("optimizer", IN_PLACE)
def test_values_and_state_are_those_of_an_optimizer_of_parameters(optimizer: str) -> None:
    source = source_of(optimizer)
    if source is None or not is_installed(source):
        pytest.skip("not installed")
    config = configured(optimizer)
    (_, plain), (_, flat) = (trained(config, flat=flat) for flat in (False, True))
    assert same(plain, flat)
    (_, on), (_, flat_on) = trained(config, flat=False, saved=flat), trained(config, flat=True, saved=plain)
    assert same(on, flat_on)


@pytest.mark.parametrize("optimizer", IN_PLACE)
def test_no_optimizer_leaves_the_flat_parameters(optimizer: str) -> None:
    source = source_of(optimizer)
    if source is None or not is_installed(source):
        pytest.skip("not installed")
    network = network_of()
    layout = update_layout(network, configured(optimizer), torch.float32)
    assert layout.flat is not None
    built = build_optimizer(optimizer, [], layout.groups)
    if built.schedule_free:
        built.optimizer.train()  # type: ignore[attr-defined]
    parameters = network.parameters()
    filled(layout, parameters, 0)
    before = layout.flat.masters.clone()
    built.optimizer.step()
    views = layout.flat.by_parameter(0, layout.flat.masters)
    assert all(view.data_ptr() == parameter.data_ptr() for view, parameter in zip(views, parameters, strict=True))
    assert not torch.equal(layout.flat.masters, before)


def test_what_is_missing_in_a_saved_state_is_zero() -> None:
    config = configured()
    _, saved = trained(config, flat=True)
    del saved["optimizer"]["state"][3]
    network = network_of()
    layout = update_layout(network, config, torch.float32)
    (entry,) = layout.as_joined(saved["optimizer"])["state"].values()
    assert layout.flat is not None
    moments = layout.flat.by_parameter(0, entry["exp_avg"])
    assert not moments[3].any() and moments[2].any() and moments[4].any()


@pytest.mark.parametrize(
    ("change", "is_flat", "joined"),
    [
        ({}, True, 1),
        ({"network": {"loraplus_lr_ratio": 4}}, True, 2),
        ({"network": {"module_dropout": 0.1}}, False, 0),
        ({"network": {"network_dropout": 0.1}}, True, 1),
        ({"training": {"optimizer_type": "pytorch_optimizer.Lamb"}}, False, 0),
        ({"training": {"optimizer_type": "AdamW8bit"}}, True, 0),
        ({"memory": {"torch_compile": "on"}}, True, 1),
    ],
)
def test_which_runs_have_flat_parameters(change: dict[str, dict[str, Any]], is_flat: bool, joined: int) -> None:
    network = network_of()
    layout = update_layout(network, configured(**change), torch.float32)
    assert (layout.flat is not None, len(layout.joined)) == (is_flat, joined)
    groups = parameter_groups(network, configured(**change))
    assert [group["name"] for group in layout.groups] == [group["name"] for group in groups]
    own = {id(parameter) for group in layout.groups for parameter in group["params"]}
    assert own == ({id(group) for group in layout.flat.groups} if layout.joined else set(map(id, network.parameters())))  # type: ignore[union-attr]


def test_the_text_encoder_stays_outside() -> None:
    """What is behind its used layer has no gradient, and no weight decay either."""
    network = make_tiny().attach()
    layout = update_layout(network, configured(), torch.float32)
    names = [group["name"] for group in layout.groups]
    assert names == ["text_encoder", "unet"] and layout.joined == {1: 0}
    assert len(layout.groups[0]["params"]) > 1 == len(layout.groups[1]["params"])
    assert layout.flat is not None
    assert not any(parameter in layout.flat for parameter in layout.groups[0]["params"])


def test_gradients_outside_of_the_flat_parameters_stay_in_place_for_graphs() -> None:
    """Only those that a pass reached: the optimizer leaves out what has none."""
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    layout = UpdateLayout([], [used, unused], keeps_gradients=True)
    assert layout.memory() == []
    places = set()
    for _ in range(2):
        (used * 2).sum().backward()
        (gradient,) = layout.memory()
        assert torch.equal(gradient, torch.full((3,), 2.0)) and gradient is used.grad
        places.add(gradient.data_ptr())
        layout.clear()
        assert not gradient.any()
    assert len(places) == 1
    layout.release()
    layout.clear()
    assert used.grad is None
    (gradient,) = layout.memory()
    assert gradient is used.grad and not gradient.any() and unused.grad is None


def test_without_graphs_gradients_are_dropped() -> None:
    used = nn.Parameter(torch.ones(3))
    layout = UpdateLayout([], [used])
    (used * 2).sum().backward()
    layout.clear()
    assert used.grad is None and layout.memory() == []
