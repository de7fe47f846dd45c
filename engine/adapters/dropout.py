"""Kohya's three dropouts as forward hooks on peft's layers (facts: sd-scripts `networks/lora.py`).

They act only in training mode and draw from torch's global generators, which the loop seeds for each step.
A layer without a dropout gets no hook.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from engine.config.schema import NetworkTable


def add_dropouts(layer: Any, adapter: str, network: NetworkTable) -> None:
    """Give one peft layer the dropouts that the configuration asks for."""
    down = layer.lora_A[adapter]
    if network.network_dropout or network.rank_dropout:
        down.register_forward_hook(_DownDropout(network.network_dropout, network.rank_dropout))
    if network.module_dropout:
        skip = _ModuleDropout(network.module_dropout)
        layer.register_forward_pre_hook(skip.before)
        layer.register_forward_hook(skip.after, always_call=True)


class _DownDropout:
    """Dropout on the down projection's output, then whole ranks of each sample dropped and the rest scaled up."""

    def __init__(self, element: float, rank: float) -> None:
        self.element = element
        self.rank = rank

    def __call__(self, down: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Output [B, r], [B, N, r] or [B, r, h, w]; the same shape comes back."""
        if not down.training:
            return output
        if self.element:
            output = functional.dropout(output, self.element)
        if self.rank:
            ranks = output.shape[1] if output.dim() == 4 else output.shape[-1]
            kept = torch.rand((output.shape[0], ranks), device=output.device) > self.rank
            shape = {2: (-1, ranks), 3: (-1, 1, ranks), 4: (-1, ranks, 1, 1)}[output.dim()]
            output = output * (kept.view(shape).to(output.dtype) / (1 - self.rank))
        return output


class _ModuleDropout:
    """The whole module is skipped for one forward: its parameters get no gradient, as in Kohya's."""

    def __init__(self, probability: float) -> None:
        self.probability = probability
        self.skipping = False

    def before(self, layer: Any, inputs: Any) -> None:
        if layer.training and not layer.disable_adapters and float(torch.rand(())) < self.probability:
            layer._disable_adapters = self.skipping = True

    def after(self, layer: Any, inputs: Any, output: Any) -> None:
        if self.skipping:
            layer._disable_adapters = self.skipping = False
