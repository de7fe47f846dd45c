"""T-LoRA's mask: in training, the noisier a sample is, the fewer ranks of a LoRA it uses (Soboleva et al. 2025)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.adapters.doubled_layers import DoubledHalf

_TIMESTEPS = 1000
"""Timesteps run from 0 to this, with every kind of prediction."""


class RankMask:
    """The masks of all LoRAs of one component, by forward hooks on their down projections.

    At the timestep t the first int(((T - t) / T)^exponent · (r - minimum)) + minimum of r ranks are used. Masks are
    made once for each batch, and stay for the recomputation in its backward pass. Evaluation uses all ranks, as
    programs that read the file do.

    Args:
        minimum: ranks at the noisiest timestep; a smaller LoRA uses all of its ranks.
    """

    def __init__(self, minimum: int, exponent: float) -> None:
        self._minimum, self._exponent = minimum, exponent
        self._masks: dict[int, Tensor | None] = {}
        """Rank to [B, r], True where a sample uses a rank; None before the first batch."""

    def add(self, down: nn.Module, rank: int) -> None:
        """Mask the output of a down projection."""
        self._masks[rank] = None
        down.register_forward_hook(_Masked(self, rank))

    def follow(self, timesteps: Tensor) -> None:
        """Set the timesteps [B] of the next batch, 0 to 1000."""
        clear = (_TIMESTEPS - timesteps.double()) / _TIMESTEPS
        for rank in self._masks:
            least = min(self._minimum, rank)
            used = (clear**self._exponent * (rank - least)).long() + least
            self._masks[rank] = torch.arange(rank, device=used.device) < used[:, None]

    def of(self, rank: int) -> Tensor:
        """The mask [B, r] of the present batch."""
        mask = self._masks[rank]
        assert mask is not None, "no timesteps were set"
        return mask


class _Masked:
    """The hook on one down projection."""

    def __init__(self, masks: RankMask, rank: int) -> None:
        self._masks, self._rank = masks, rank

    def __call__(self, down: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Output [B, r], [B, N, r] or [B, r, h, w], of a doubled LoRA with 2r; the same shape comes back."""
        if not down.training:
            return output
        mask = self._masks.of(self._rank)
        if isinstance(down, DoubledHalf):
            mask = torch.cat((mask, mask), dim=1)
        shape = {2: mask.shape, 3: (len(mask), 1, -1), 4: (*mask.shape, 1, 1)}[output.dim()]
        return output * mask.view(shape)
