"""Tries an optimizer out on small matrices: whether it steps, and whether it continues from a saved state exactly."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import torch

from engine.runs.states import unflatten
from engine.training.statefile import flatten

Build = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
"""Builds the optimizer for these parameters."""
_SIZES = ((40, 36), (36, 5))
_STEPS = 12


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Restore the state of an optimizer exactly.

    torch converts each saved tensor to the parameter's dtype; here it keeps its own, as bfloat16 statistics must.

    Args:
        saved: its `state_dict()`; unchanged.
    """
    optimizer.load_state_dict(saved)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    for parameter, number in zip(parameters, numbers, strict=True):
        loaded = optimizer.state.get(parameter, {})
        for key, value in saved["state"].get(number, {}).items():
            current = loaded.get(key)
            if torch.is_tensor(value) and torch.is_tensor(current) and current.dtype != value.dtype:
                loaded[key] = value.to(current.device, copy=True)


def resumes_exactly(build: Build) -> bool:
    """Whether some steps give the same bits as half of them, a saved state, and the other half, and whether nothing
    outside the state counts steps. The global generator is seeded before each step, as in a run, and restored.

    Raises:
        Exception: any error of the optimizer, in its constructor or a step.
        TypeError: its state cannot be saved.
    """
    with torch.random.fork_rng(devices=[]):
        straight, uninterrupted = _trained(build, None, range(_STEPS))
        half, optimizer = _trained(build, None, range(_STEPS // 2))
        saved = _as_read({"weights": half, "optimizer": optimizer.state_dict()})
        resumed, continued = _trained(build, saved, range(_STEPS // 2, _STEPS))
    same = all(torch.equal(first, second) for first, second in zip(straight, resumed, strict=True))
    return same and _outside(uninterrupted) == _outside(continued)


def _outside(optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """The attributes of an optimizer that its `state_dict` leaves out, as text."""
    base = vars(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0))
    return {name: repr(value) for name, value in vars(optimizer).items() if name not in base}


def _trained(
    build: Build, saved: dict[str, Any] | None, steps: range
) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(*size) / 6) for size in _SIZES]
    inputs = torch.randn(5, _SIZES[0][0])
    optimizer = build(parameters)
    if saved is not None:
        with torch.no_grad():
            for parameter, value in zip(parameters, saved["weights"], strict=True):
                parameter.copy_(value)
        load_optimizer(optimizer, saved["optimizer"])
    if hasattr(optimizer, "train"):
        optimizer.train()
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad(set_to_none=True)
        output = inputs
        for parameter in parameters:
            output = output @ parameter
        ((output - 1) ** 2).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return parameters, optimizer


def _as_read(tree: dict[str, Any]) -> Any:
    """A tree as it comes back from a state's file."""
    tensors: dict[str, torch.Tensor] = {}
    structure = json.loads(json.dumps(flatten(copy.copy(tree), tensors)))
    return unflatten(structure, tensors)
