"""Communication between the ranks of one run: losses and gradients are averaged, caches are shared, rank 0 decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed

from engine.training.group import gathered
from engine.world import World

Tensors = Mapping[str, Tensor]
_AT_ONCE = 64
"""Cached entries in one message."""


class Ranks:
    """All ranks of one run; with one process nothing is exchanged."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.size: int = accelerator.num_processes
        self.announces = False
        """Rank 0: whether it has commands for the others."""
        self.announced = False
        """Whether it had some at the last `combine`."""

    def combine(self, loss: Tensor, presence: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The mean of a loss over all ranks, and the sums of other numbers, in one message with `announces`.

        Args:
            loss: a scalar, not finite if it is not on one of the ranks.
            presence: [n] float32.
        """
        if self.size == 1:
            return loss, presence
        flag = loss.new_full((1,), float(self.announces))
        parts = [loss.reshape(1), flag] if presence is None else [loss.reshape(1), flag, presence.to(loss)]
        sums = torch.cat(parts)
        distributed.all_reduce(sums)
        self.announced = bool(sums[1] > 0)
        return sums[0] / self.size, None if presence is None else sums[2:]

    @torch.no_grad()
    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Replace the values of these tensors by those of rank 0."""
        if self.size == 1:
            return
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            distributed.broadcast(sent, 0)
            tensor.copy_(sent)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        return self._from(0, value)

    def gather(self, value: Any) -> list[Any]:
        """The value of each rank, on every rank."""
        return gathered(value, World(self.rank, self.size))

    def _from(self, rank: int, value: Any) -> Any:
        values = [value]
        distributed.broadcast_object_list(values, rank)
        return values[0]

    def share(
        self, missing: Sequence[str], load: Callable[[str], Tensors | None], save: Callable[[str, Tensors], None]
    ) -> None:
        """Give each rank the cached entries that it lacks and another one has.

        Where ranks share a folder, nothing is missing and nothing is sent.

        Args:
            missing: keys without an entry here, of those that every rank has to have.
        """
        lacking = [set(keys) for keys in self.gather(list(missing))]
        for owner in range(self.size):
            earlier = lacking[:owner]
            owned = sorted(
                key for key in set().union(*lacking) - lacking[owner] if all(key in others for others in earlier)
            )
            for first in range(0, len(owned), _AT_ONCE):
                keys = owned[first : first + _AT_ONCE]
                entries = {key: load(key) for key in keys} if owner == self.rank else None
                entries = self._from(owner, entries)
                for key in lacking[self.rank].intersection(keys):
                    if entries[key] is not None:
                        save(key, entries[key])
