"""Averages gradients over the ranks in parts, each as soon as the backward pass has finished it.

The parts and their order are fixed: the sum of more than two ranks depends on how a message is cut, and a run that was
resumed must add in the same order as one that was not. torch's DistributedDataParallel cuts by the order of the first
pass after each start.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from typing_extensions import override

from engine.adapters.flat import FlatParameters, Slot
from engine.training.flat_update import UpdateLayout

BUCKET_VALUES = 4 * 2**20
"""Values of a part, 16 MiB: large enough for the bandwidth of the bus, small beside the gradients of a usual LoRA."""


class _Part(ABC):
    """Gradients that are averaged in one message."""

    def __init__(self, sources: set[int]) -> None:
        self.sources = sources
        """By id, the slots and parameters whose gradients it has."""
        self._sent: Tensor | None = None
        self._work: Any = None

    def send(self) -> None:
        """Begin to add this rank's gradients to those of the others."""
        self._sent = self.taken()
        self._work = distributed.all_reduce(self._sent, async_op=True)

    def receive(self, size: int) -> Tensor:
        """Wait for it; the mean of `size` ranks."""
        assert self._sent is not None
        self._work.wait()
        mean, self._sent, self._work = self._sent.div_(size), None, None
        return mean

    @abstractmethod
    def taken(self) -> Tensor:
        """This rank's gradients, [n] float32."""


class _FlatPart(_Part):
    """A part of the flat gradients, which is averaged in place."""

    def __init__(self, flat: FlatParameters, first: int, last: int, sources: set[int]) -> None:
        super().__init__(sources)
        self._flat, self._first, self._last = flat, first, last

    @override
    def taken(self) -> Tensor:
        return self._flat.collect_part(self._first, self._last)


class _ListPart(_Part):
    """Gradients of parameters that have their own memory."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__({id(parameter) for parameter in parameters})
        self.parameters = parameters

    @override
    def taken(self) -> Tensor:
        return torch.cat([
            (parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)).reshape(-1)
            for parameter in self.parameters
        ])  # fmt: skip

    def give(self, mean: Tensor, present: Sequence[float]) -> None:
        """Set the gradients to the mean; a parameter without one on any rank keeps none, so that it does not decay."""
        parts = torch.split(mean, [parameter.numel() for parameter in self.parameters])
        for parameter, part, count in zip(self.parameters, parts, present, strict=True):
            if not count:
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = part.view_as(parameter).clone()
            else:
                parameter.grad.copy_(part.view_as(parameter))


class GradientBuckets:
    """The gradients of an update, averaged over `size` ranks. With one rank nothing happens.

    Args:
        layout: what has gradients.
        size: number of ranks.
    """

    def __init__(self, layout: UpdateLayout, size: int) -> None:
        self._layout, self._size = layout, size
        self._is_last_pass = False
        self._pending: list[set[int]] = []
        self._sent = 0
        """Parts that are on their way: the first ones."""
        self._places: dict[int, list[int]] = {}
        """By id of what writes gradients: the numbers of its parts."""
        self._flat: list[_Part] = []
        self._lists: list[_ListPart] = []
        self._parts: list[_Part] = []
        """All of them in the order in which they are sent, about that of the backward pass."""
        if size == 1:
            return
        alone = list(layout.outside)
        if layout.flat is not None:
            self._flat += [_FlatPart(layout.flat, *extent) for extent in _extents(layout.flat)][::-1]
            layout.flat.on_written = self._arrived
            alone += layout.flat.with_own_gradients()
        self._lists = [_ListPart(group) for group in _grouped(layout.outside)][::-1]
        self._parts = [*self._flat, *self._lists]
        for number, part in enumerate(self._parts):
            for source in part.sources:
                self._places.setdefault(source, []).append(number)
        for parameter in alone:
            parameter.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]

    @contextmanager
    def backward(self, *, last: bool) -> Iterator[None]:
        """Around the backward pass of a batch.

        Args:
            last: of the update: its parts are sent while it computes.
        """
        if self._size == 1:
            yield
            self._layout.collect()
            return
        self._is_last_pass = last
        if last:
            self._pending, self._sent = [set(part.sources) for part in self._parts], 0
        yield
        self._is_last_pass = False
        if last:
            while self._sent < len(self._parts):
                self._send()
        else:
            self._layout.collect()

    def presence(self) -> Tensor | None:
        """Which of the parameters with their own memory have a gradient here: [n] of 0 and 1; None without any."""
        flags = [parameter.grad is not None for part in self._lists for parameter in part.parameters]
        return torch.tensor(flags, dtype=torch.float32) if flags else None

    def finish(self, presence: Tensor | None) -> None:
        """Wait for all parts; then the gradients are the means.

        Args:
            presence: the sums over all ranks.
        """
        if self._size == 1:
            return
        for flat in self._flat:
            flat.receive(self._size)
        if self._layout.flat is not None:
            self._layout.flat.attach()
        counts = iter([] if presence is None else presence.tolist())
        for part in self._lists:
            part.give(part.receive(self._size), [next(counts) for _ in part.parameters])

    def _arrived(self, source: Slot | nn.Parameter) -> None:
        """A backward pass has written a gradient."""
        if not self._is_last_pass:
            return
        for number in self._places[id(source)]:
            assert number >= self._sent, "a gradient was written again after it was sent"
            self._pending[number].discard(id(source))
        while self._sent < len(self._pending) and not self._pending[self._sent]:
            self._send()

    def _send(self) -> None:
        """Send the next part: every rank sends them in the same order."""
        self._parts[self._sent].send()
        self._sent += 1


def _extents(flat: FlatParameters) -> Iterator[tuple[int, int, set[int]]]:
    """Cuts flat parameters: first and last value of each part, and what writes its gradients."""
    first, sources = 0, set[int]()
    for parameter, end in flat.places():
        sources |= flat.sources_of(parameter)
        if end - first >= BUCKET_VALUES:
            yield first, end, sources
            first, sources = end, set()
    if sources:
        yield first, len(flat.masters), sources


def _grouped(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    group: list[nn.Parameter] = []
    for parameter in parameters:
        group.append(parameter)
        if sum(own.numel() for own in group) >= BUCKET_VALUES:
            yield group
            group = []
    if group:
        yield group
