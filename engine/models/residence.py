"""Where the parts of a model are: in the host's memory, or on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from engine.memory.block_swap import Ring
from engine.models.base import Part


class Residence:
    """Moves the parts of one model. On the CPU there is nothing to win, and nothing moves.

    Weights that split mode keeps in the host's memory stay there; their slots come and go with the denoiser.
    """

    def __init__(self, parts: Mapping[Part, Sequence[nn.Module]], device: torch.device) -> None:
        self._parts = {part: list(modules) for part, modules in parts.items()}
        self.device = device
        self.ring: Ring | None = None
        """Split mode's, where it is on."""
        self._here: set[Part] = set()

    def release(self, part: Part) -> None:
        """See `Model.release`."""
        self._here.discard(part)
        for module in self._parts[part]:
            module.to("cpu")
        if part == "denoiser" and self.ring is not None:
            self.ring.close()

    def acquire(self, part: Part) -> None:
        """See `Model.acquire`."""
        for module in self._parts[part]:
            module.to(self.device)
        self._here.add(part)

    def forget(self, part: Part, module: nn.Module) -> None:
        """Stop moving a module with its part: it is not needed any more."""
        self._parts[part] = [other for other in self._parts[part] if other is not module]

    @contextmanager
    def without(self, part: Part) -> Iterator[None]:
        """Within it the part is on the host."""
        here = part in self._here
        try:
            if here:
                self.release(part)
            yield
        finally:
            if here:
                self.acquire(part)

    @contextmanager
    def present(self, *parts: Part) -> Iterator[None]:
        """See `Model.present`."""
        away = [part for part in parts if part not in self._here]
        try:
            for part in away:
                self.acquire(part)
            yield
        finally:
            for part in away:
                self.release(part)


@contextmanager
def evaluating(roots: Sequence[nn.Module]) -> Iterator[None]:
    """Everything below `roots` in eval mode, without gradients; each module's own mode comes back."""
    modes = [(module, module.training) for root in roots for module in root.modules()]
    try:
        for root in roots:
            root.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
