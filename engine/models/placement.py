"""Where the parts of a model are: in the host's memory, or on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from engine.lowmem.block_swap import WeightRing
from engine.types import Part


class DevicePlacement:
    """Moves the parts of one model. On the CPU nothing moves.

    Weights that split mode keeps in the host's memory stay there; their slots on the device follow the denoiser.
    """

    def __init__(self, parts: Mapping[Part, Sequence[nn.Module]], device: torch.device) -> None:
        self._parts = {part: list(modules) for part, modules in parts.items()}
        self.device = device
        self.ring: WeightRing | None = None
        """Split mode's ring, where it is on."""
        self._on_device: set[Part] = set()

    def release(self, part: Part) -> None:
        """Move a part to the host."""
        self._on_device.discard(part)
        for module in self._parts[part]:
            module.to("cpu")
        if part == "denoiser" and self.ring is not None:
            self.ring.close()

    def acquire(self, part: Part) -> None:
        """Move a part to the device."""
        for module in self._parts[part]:
            module.to(self.device)
        self._on_device.add(part)

    def remove(self, part: Part, module: nn.Module) -> None:
        """Stop moving a module with its part: it is no longer needed."""
        self._parts[part] = [other for other in self._parts[part] if other is not module]

    @contextmanager
    def on_host(self, part: Part) -> Iterator[None]:
        """Context in which the part is on the host."""
        was_on_device = part in self._on_device
        try:
            if was_on_device:
                self.release(part)
            yield
        finally:
            if was_on_device:
                self.acquire(part)

    @contextmanager
    def on_device(self, *parts: Part) -> Iterator[None]:
        """Context in which the parts are on the device; afterwards those that were not there before are released."""
        away = [part for part in parts if part not in self._on_device]
        try:
            for part in away:
                self.acquire(part)
            yield
        finally:
            for part in away:
                self.release(part)


@contextmanager
def evaluating(roots: Sequence[nn.Module]) -> Iterator[None]:
    """Context with everything below `roots` in eval mode, without gradients; each module's own mode is restored."""
    modes = [(module, module.training) for root in roots for module in root.modules()]
    try:
        for root in roots:
            root.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
