"""Kohya's three dropouts as forward hooks on peft's layers (facts: sd-scripts `networks/lora.py`), and the skipping of
modules for other kinds of layers.

They act only in training mode and use torch's global generators, which the loop seeds for each step. A layer without a
dropout gets no hook. Layers that are one in Kohya's files share their random values: the first that runs generates
them, the others reuse them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.nn import functional

from engine.adapters.doubled_layers import DoubledHalf
from engine.config.network import NetworkTable

T = TypeVar("T")


def add_dropouts(layers: Sequence[Any], adapter: str, network: NetworkTable) -> None:
    """Add the configured dropouts to the peft layers of one LoRA module."""
    element, rank = network.network_dropout, network.rank_dropout
    factors: _Shared[torch.Tensor] = _Shared(len(layers))
    skipped = Skip(network.module_dropout, len(layers))
    for layer in layers:
        if element or rank:
            layer.lora_A[adapter].register_forward_hook(_DownDropout(element, rank, factors))
        if network.module_dropout:
            skip = _ModuleDropout(skipped)
            layer.register_forward_pre_hook(skip.before)
            layer.register_forward_hook(skip.after, always_call=True)


class _Shared(Generic[T]):
    """A random value that each of the `members` of a group uses once."""

    def __init__(self, members: int) -> None:
        self._members, self._left = members, 0
        self._value: T | None = None

    def take(self, generate: Callable[[], T]) -> T:
        """The group's value; generated at the first call."""
        if self._left == 0 or self._value is None:
            self._value, self._left = generate(), self._members
        value, self._left = self._value, self._left - 1
        if self._left == 0:
            self._value = None
        return value


class Skip:
    """Module dropout of the `members` layers of one module: all of them are skipped, or none.

    Args:
        probability: 0: no random number is used.
    """

    def __init__(self, probability: float, members: int) -> None:
        self._probability, self._shared = probability, _Shared[bool](members)

    def now(self) -> bool:
        """Whether the layer that runs now is skipped; to be asked once in each pass of each layer."""
        if not self._probability:
            return False
        return self._shared.take(lambda: float(torch.rand(())) < self._probability)


class _DownDropout:
    """Dropout on the down projection's output, then complete ranks of each sample dropped and the others scaled up."""

    def __init__(self, element: float, rank: float, factors: _Shared[torch.Tensor]) -> None:
        self.element, self.rank, self.factors = element, rank, factors

    def __call__(self, down: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Output [B, r], [B, N, r] or [B, r, h, w]; the same shape comes back."""
        if not down.training:
            return output
        halves = 2 if isinstance(down, DoubledHalf) else 1
        axis = 1 if output.dim() == 4 else -1
        ranks = output.narrow(axis, 0, output.shape[axis] // halves)
        # A rank of a doubled LoRA is in both halves: dropped in one of them only, it would leave a part of the base.
        return output * self.factors.take(lambda: torch.cat([self._factors(ranks)] * halves, axis))

    def _factors(self, output: torch.Tensor) -> torch.Tensor:
        """The factors that `output` is multiplied with."""
        factors = torch.ones_like(output)
        if self.element:
            factors = functional.dropout(factors, self.element)
        if self.rank:
            ranks = output.shape[1] if output.dim() == 4 else output.shape[-1]
            kept = torch.rand((output.shape[0], ranks), device=output.device) > self.rank
            shape = {2: (-1, ranks), 3: (-1, 1, ranks), 4: (-1, ranks, 1, 1)}[output.dim()]
            factors = factors * (kept.view(shape).to(output.dtype) / (1 - self.rank))
        return factors


class _ModuleDropout:
    """The complete module is skipped for one forward: its parameters get no gradient, as in Kohya's."""

    def __init__(self, skipped: Skip) -> None:
        self.skipped = skipped
        self.skipping = False

    def before(self, layer: Any, inputs: Any) -> None:
        if not layer.training or layer.disable_adapters:
            return
        if self.skipped.now():
            layer._disable_adapters = self.skipping = True

    def after(self, layer: Any, inputs: Any, output: Any) -> None:
        if self.skipping:
            layer._disable_adapters = self.skipping = False
