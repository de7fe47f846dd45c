"""The trained values of a denoiser in one tensor, so that an update is a few operations, and not some for each matrix.

The float32 values of all parameters lie in one tensor, and the parameters are views of it. For a base in half precision
a second tensor has them in its number format, rounded once an update, and a third one takes their gradients there.
Layers with a `Slot` compute from these and write their gradients themselves; other layers go through autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_ALIGNED = 64
"""Values: each parameter starts at a multiple of it. Matrix products are fast from multiples of 16 bytes on."""


@dataclass
class Slot:
    """Where the two matrices of a layer are, and their gradients; set from a step to the next `release`."""

    flat: FlatParameters
    parameters: tuple[nn.Parameter, nn.Parameter]
    """Down [r, in] or [r, in, k, k] and up [out, r] or [out, r, 1, 1]."""
    down: Tensor = field(init=False)
    """The values, in the base's number format."""
    up: Tensor = field(init=False)
    down_gradient: Tensor = field(init=False)
    up_gradient: Tensor = field(init=False)

    def written(self) -> None:
        """To be called when a backward pass has added both gradients."""
        if self.flat.on_written is not None:
            self.flat.on_written(self)


class FlatParameters:
    """Trained parameters in groups of consecutive values.

    Every parameter counts as trained in every update: one that a step may leave out (by module dropout) cannot be here.

    Args:
        groups: the parameters of each of the optimizer's groups, float32 on one device. Each becomes a view of
            `masters`; the objects stay the same.
        behind: those of them that are placed behind the others of their group, so that the inner matrices of layers
            with a common input lie side by side.
        dtype: of the layers with slots: float32, float16 or bfloat16.
    """

    def __init__(
        self, groups: Sequence[Sequence[nn.Parameter]], behind: Collection[nn.Parameter], dtype: torch.dtype
    ) -> None:
        self.members = [list(group) for group in groups]
        self.dtype = dtype
        self._starts: dict[int, int] = {}
        self._bounds: list[tuple[int, int]] = []
        self._place(set(map(id, behind)))
        self.masters = torch.zeros(self._bounds[-1][1], device=self.members[0][0].device)
        with torch.no_grad():
            for parameter in self.parameters():
                view = self._part(self.masters, parameter)
                view.copy_(parameter)
                parameter.data = view
        self.groups = [nn.Parameter(self.masters[first:last]) for first, last in self._bounds]
        """The values of each group. Between `collect` and `clear` they have gradients."""
        self._slots: list[Slot] = []
        self._slots_of: dict[int, set[int]] = {}
        """By ids, the slots of each parameter."""
        self._by_parameter: list[nn.Parameter] = []
        self.values: Tensor | None = None
        """What slots compute from; for a base in float32 the masters."""
        self.gradients: Tensor | None = None
        """Of the slots, in the same number format."""
        self._sums: Tensor | None = None
        """The gradients of an update, float32; for a base in float32 the same tensor."""
        self._is_allocated = False
        self.is_in_step = False
        self.on_written: Callable[[Slot], None] | None = None
        """Called when a backward pass has written the gradients of a slot."""
        self.joints: dict[int, Any] = {}
        """Layers that are computed together (`engine.adapters.joint`), by the id of the first; None: they cannot."""

    def _place(self, behind: Collection[int]) -> None:
        end = 0
        for group in self.members:
            first = end
            for parameter in sorted(group, key=lambda own: id(own) in behind):
                self._starts[id(parameter)] = end
                end += -(-parameter.numel() // _ALIGNED) * _ALIGNED
            self._bounds.append((first, end))

    def __contains__(self, parameter: nn.Parameter) -> bool:
        return id(parameter) in self._starts

    def parameters(self) -> Iterator[nn.Parameter]:
        """All of them, group by group."""
        return (parameter for group in self.members for parameter in group)

    def _part(self, flat: Tensor, parameter: nn.Parameter) -> Tensor:
        start = self._starts[id(parameter)]
        return flat[start : start + parameter.numel()].view(parameter.shape)

    def slot(self, down: nn.Parameter, up: nn.Parameter) -> Slot:
        """The slot of a layer with these two matrices; several layers may share one of them."""
        slot = Slot(self, (down, up))
        self._slots.append(slot)
        for parameter in slot.parameters:
            self._slots_of.setdefault(id(parameter), set()).add(id(slot))
        return slot

    def sources_of(self, parameter: nn.Parameter) -> set[int]:
        """By id, what writes a parameter's gradient: its slots, or itself where it has none."""
        return self._slots_of.get(id(parameter)) or {id(parameter)}

    def with_own_gradients(self) -> list[nn.Parameter]:
        """Those whose gradients autograd writes, and not a slot."""
        return [parameter for parameter in self.parameters() if self.sources_of(parameter) == {id(parameter)}]

    def places(self) -> list[tuple[nn.Parameter, int]]:
        """The parameters by their place in `masters`, each with the end of it."""
        ordered = sorted(self.parameters(), key=lambda parameter: self._starts[id(parameter)])
        ends = [self._starts[id(parameter)] for parameter in ordered[1:]]
        return list(zip(ordered, [*ends, len(self.masters)], strict=True))

    def give_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give these parameters gradients of their own, which autograd adds to and an optimizer may read. While the
        training steps they stay between updates."""
        self._by_parameter = list(parameters)

    # --- memory

    def allocate(self) -> None:
        """Make the slots' memory, if it is not there."""
        if self._is_allocated:
            return
        is_half = self.dtype != torch.float32
        if self._by_parameter or not is_half:
            self._sums = torch.zeros_like(self.masters)
        self.values, self.gradients = self.masters, self._sums
        if is_half:
            has_slots = bool(self._slots)
            self.values = torch.empty_like(self.masters, dtype=self.dtype) if has_slots else None
            self.gradients = torch.zeros_like(self.masters, dtype=self.dtype) if has_slots else None
        for slot in self._slots:
            assert self.values is not None and self.gradients is not None
            slot.down, slot.up = (self._part(self.values, half) for half in slot.parameters)
            slot.down_gradient, slot.up_gradient = (self._part(self.gradients, half) for half in slot.parameters)
        for parameter in self._by_parameter:
            assert self._sums is not None
            parameter.grad = self._part(self._sums, parameter)
        self._is_allocated = True

    def release(self) -> None:
        """Free everything but the masters until the next step, for a phase that needs the memory."""
        self.values = self.gradients = self._sums = None
        self.joints.clear()
        for slot in self._slots if self._is_allocated else ():
            del slot.down, slot.up, slot.down_gradient, slot.up_gradient
        for parameter in (*self._by_parameter, *self.groups):
            parameter.grad = None
        self._is_allocated = False

    def memory(self) -> list[Tensor]:
        """What a backward pass adds to, in memory that stays in place until `release`."""
        tensors = {id(tensor): tensor for tensor in (self.gradients, self._sums) if tensor is not None}
        return list(tensors.values())

    # --- an update

    @contextmanager
    def step(self) -> Iterator[None]:
        """Within it layers use their slots: the forward and backward passes of an update."""
        self.allocate()
        if self.values is not None and self.values is not self.masters:
            self.values.copy_(self.masters)
        self.is_in_step = True
        try:
            yield
        finally:
            self.is_in_step = False

    def collect(self) -> None:
        """Add the gradients of a batch, whose backward pass is done, to those of the update."""
        if self.gradients is not None and self.gradients is not self._sums:
            self._sums = self.gradients.float() if self._sums is None else self._sums.add_(self.gradients)
            self.gradients.zero_()
        self.attach()

    def collect_part(self, first: int, last: int) -> Tensor:
        """The same for the values from `first` to `last`; their gradients in the update, [n] float32. `attach` gives
        them to the groups."""
        if self.gradients is not None and self.gradients is not self._sums:
            if self._sums is None:
                self._sums = torch.zeros_like(self.masters)
            part = self.gradients[first:last]
            self._sums[first:last].add_(part)
            part.zero_()
        assert self._sums is not None, "no parameter has a gradient"
        return self._sums[first:last]

    def attach(self) -> None:
        """Give the groups their gradients in the update."""
        assert self._sums is not None, "no parameter has a gradient"
        for group, (first, last) in zip(self.groups, self._bounds, strict=True):
            group.grad = self._sums[first:last]

    def clear(self) -> None:
        """Drop the gradients."""
        for group in self.groups:
            group.grad = None
        if self.gradients is not None:
            self.gradients.zero_()
        if self._sums is self.gradients:
            return
        if self._by_parameter and self._sums is not None:
            self._sums.zero_()
        else:
            self._sums = None

    # --- a state's file, which has each parameter by itself

    def by_parameter(self, group: int, values: Tensor) -> list[Tensor]:
        """Values of a group, one for each of its own, as views in the shapes of its parameters."""
        first = self._bounds[group][0]
        views = []
        for parameter in self.members[group]:
            start = self._starts[id(parameter)] - first
            views.append(values[start : start + parameter.numel()].view(parameter.shape))
        return views
