"""The trained values of a denoiser in one tensor, so that an update is a few operations, and not some for each matrix.

The float32 values of all parameters lie in one tensor, and the parameters are views of it. For a base in half precision
a second tensor has them in its number format, rounded once an update, and a third one takes their gradients there.
Layers with a `Slot` compute from these and write their gradients themselves; other layers go through autograd.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_ALIGNED = 64
"""Values: each parameter starts at a multiple of it. Matrix products are fast from multiples of 16 bytes on."""


@dataclass(frozen=True)
class Slot:
    """Where the two matrices of a layer are: their values in the base's number format, and their gradients."""

    flat: FlatParameters
    down: Tensor
    """[r, in] or [r, in, k, k]."""
    up: Tensor
    """[out, r] or [out, r, 1, 1]."""
    down_gradient: Tensor
    up_gradient: Tensor


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
        self.values = self.masters
        """What slots compute from; for a base in half precision another tensor, as soon as there is a slot."""
        self._sums: Tensor | None = None if dtype != torch.float32 else torch.zeros_like(self.masters)
        """The gradients of an update, float32."""
        self.gradients = self._sums
        """Of the slots, in the number format of `values`; float32: the same tensor."""
        self._by_parameter: set[int] = set()
        self.is_in_step = False

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
        if self.gradients is None:
            self.values = torch.empty_like(self.masters, dtype=self.dtype)
            self.gradients = torch.zeros_like(self.values)
        values, gradients = ([self._part(flat, half) for half in (down, up)] for flat in (self.values, self.gradients))
        return Slot(self, *values, *gradients)

    def give_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give these parameters gradients of their own, which autograd adds to and an optimizer may read. They stay
        between updates."""
        if not parameters:
            return
        if self._sums is None:
            self._sums = torch.zeros_like(self.masters)
        self._by_parameter.update(map(id, parameters))
        for parameter in parameters:
            parameter.grad = self._part(self._sums, parameter)

    # --- an update

    @contextmanager
    def step(self) -> Iterator[None]:
        """Within it layers use their slots: the forward and backward passes of an update."""
        if self.values is not self.masters:
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

    def memory(self) -> list[Tensor]:
        """What a backward pass adds to, in memory that stays in place."""
        tensors = {id(tensor): tensor for tensor in (self.gradients, self._sums) if tensor is not None}
        return list(tensors.values())

    # --- a state's file, which has each parameter by itself

    def by_parameter(self, group: int, values: Tensor) -> list[Tensor]:
        """Values of a group, one for each of its own, as views in the shapes of its parameters."""
        first = self._bounds[group][0]
        views = []
        for parameter in self.members[group]:
            start = self._starts[id(parameter)] - first
            views.append(values[start : start + parameter.numel()].view(parameter.shape))
        return views
