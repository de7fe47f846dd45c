"""Gives the optimizer the denoiser's parameters as one tensor for each group, and its state the usual form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.adapters.flat import FlatParameters
from engine.adapters.network import AdapterNetwork
from engine.config import RunConfig
from engine.config.optimizers import source_of
from engine.training.groups import parameter_groups, rate_groups

_BY_VALUE = ("torch.optim.AdamW", "torch.optim.Adam", "torch.optim.SGD")
"""Optimizers that treat each value by itself, so that tensors may be joined."""
_IN_PLACE = (
    "torch.optim",
    "bitsandbytes.optim",
    "transformers.optimization",
    "lion_pytorch",
    "prodigyopt",
    "schedulefree",
)
"""Modules whose optimizers change parameters in place; others may give them new memory."""


@dataclass
class UpdateLayout:
    """What the optimizer updates: groups of flat parameters, and the parameters outside of them."""

    groups: list[dict[str, Any]]
    """As the optimizer takes them."""
    holders: list[nn.Parameter]
    """What has the gradients of an update, each value once."""
    flat: FlatParameters | None = None
    joined: Mapping[int, int] = field(default_factory=dict)
    """Number of an optimizer's group to that of the group in `flat` that is its only parameter."""
    keeps_gradients: bool = False
    """Whether gradients of parameters outside of `flat` stay in the same memory between updates. A parameter that no
    pass reaches (behind the used layer of a text encoder) never has one: it must not lose weight to decay."""
    _reached: dict[int, nn.Parameter] = field(default_factory=dict)
    """By id, those that a pass reached."""

    @property
    def outside(self) -> list[nn.Parameter]:
        """Parameters that are not in `flat`."""
        return self.holders[0 if self.flat is None else len(self.flat.groups) :]

    @property
    def step(self) -> AbstractContextManager[None]:
        """Within it are the forward and backward passes of an update."""
        return nullcontext() if self.flat is None else self.flat.step()

    def collect(self) -> None:
        """To be called after each backward pass of an update."""
        if self.flat is not None:
            self.flat.collect()

    def memory(self) -> list[Tensor]:
        """What a backward pass adds to, where gradients stay in place, from the second pass on until `release`."""
        for parameter in self._reached.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        kept = _gradients(self.outside)
        return kept if self.flat is None else [*self.flat.memory(), *kept]

    def clear(self) -> None:
        """Drop the gradients."""
        if self.keeps_gradients:
            self._reached |= {id(parameter): parameter for parameter in self.outside if parameter.grad is not None}
            if kept := _gradients(self.outside):
                torch._foreach_zero_(kept)
        else:
            for parameter in self.outside:
                parameter.grad = None
        if self.flat is not None:
            self.flat.clear()

    def allocate(self) -> None:
        """Make the memory that only training steps need; the first step does it too."""
        if self.flat is not None:
            self.flat.allocate()

    def release(self) -> None:
        """Free the memory that only training steps need, until the next step."""
        for parameter in self._reached.values():
            parameter.grad = None
        if self.flat is not None:
            self.flat.release()

    def by_parameter(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """An optimizer's `state_dict`, with an entry for each parameter of the network instead of joined ones."""
        return self._renumbered(saved, self._split)

    def as_joined(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """The `state_dict` that `by_parameter` gives `saved` for; parameters without an entry get zeros."""
        return self._renumbered(saved, self._join)

    def _renumbered(self, saved: Mapping[str, Any], convert: Any) -> dict[str, Any]:
        states: dict[int, Any] = {}
        groups, first = [], 0
        for index, group in enumerate(saved["param_groups"]):
            entries = [saved["state"].get(number) for number in group["params"]]
            if index in self.joined:
                entries = convert(self.joined[index], entries)
            states |= {first + place: entry for place, entry in enumerate(entries) if entry is not None}
            groups.append({**group, "params": list(range(first, first + len(entries)))})
            first += len(entries)
        return {**saved, "state": states, "param_groups": groups}

    def _split(self, group: int, entries: Sequence[Any]) -> list[Any]:
        assert self.flat is not None
        (entry,) = entries
        members = self.flat.members[group]
        if entry is None:
            return [None] * len(members)
        parts: list[dict[str, Any]] = [dict(entry) for _ in members]
        for key, value in entry.items():
            if _is_per_value(value):
                values = self.flat.by_parameter(group, value)
            else:  # the number of the step: each parameter counts its own
                values = [value.clone() if isinstance(value, Tensor) else value for _ in members]
            for part, own in zip(parts, values, strict=True):
                part[key] = own
        return parts

    def _join(self, group: int, entries: Sequence[Any]) -> list[Any]:
        assert self.flat is not None
        present = [entry for entry in entries if entry is not None]
        if not present:
            return [None]
        joined = dict(present[0])
        for key, value in present[0].items():
            if _is_per_value(value):
                joined[key] = torch.zeros(self.flat.groups[group].shape, dtype=value.dtype, device=value.device)
                for own, entry in zip(self.flat.by_parameter(group, joined[key]), entries, strict=True):
                    if entry is not None:
                        own.copy_(entry[key])
        return [joined]


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _is_per_value(value: Any) -> bool:
    """Whether an entry of an optimizer's state has a number for each of its parameter's."""
    return isinstance(value, Tensor) and value.dim() > 0


def update_layout(network: AdapterNetwork, config: RunConfig, dtype: torch.dtype | None) -> UpdateLayout:
    """Put the denoiser's parameters into flat ones where the run allows it; their objects stay the same.

    It does not with module dropout, which leaves parameters without a gradient, and with optimizers that may replace a
    parameter's memory. Text encoders are small, and what is behind their used layer has no gradient.

    Args:
        dtype: of the base's layers; None: they compute in autocast's.
    """
    groups = parameter_groups(network, config)
    denoiser = {module.target.component for module in network.modules if module.target.is_denoiser}
    places = [index for index, group in enumerate(rate_groups(network, config)) if group.component in denoiser]
    source = source_of(config.training.optimizer_type)
    in_place = source is not None and source.module in _IN_PLACE
    if dtype is None or not places or config.network.module_dropout or not in_place:
        return UpdateLayout(groups, [parameter for group in groups for parameter in group["params"]])
    outer = [parameter for module in network.modules for parameter in module.outer]
    flat = FlatParameters([groups[index]["params"] for index in places], outer, dtype)
    others = [parameter for index, group in enumerate(groups) if index not in places for parameter in group["params"]]
    is_compiled = config.memory.torch_compile == "on"
    with_slot = set() if is_compiled else {id(parameter) for parameter in network.use_flat(flat)}
    joins = source is not None and source.dotted in _BY_VALUE
    flat.give_gradients([own for own in flat.parameters() if not joins or id(own) not in with_slot])
    joined = {index: number for number, index in enumerate(places)} if joins else {}
    for index, number in joined.items():
        groups[index]["params"] = [flat.groups[number]]
    return UpdateLayout(groups, [*flat.groups, *others], flat, joined)
