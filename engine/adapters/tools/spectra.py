"""Chooses the number of ranks by the methods of sd-scripts' `resize_lora.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Method = Literal["none", "sv_ratio", "sv_fro", "sv_cumulative"]
_ZERO = 1e-6
"""A layer whose largest singular value is not above this counts as zero."""


@dataclass(frozen=True)
class Choice:
    """The rule for a layer's rank."""

    method: Method
    value: float = 0.0
    """sv_ratio: the largest S₀/Sᵢ that is kept; sv_fro: the share of the Frobenius norm; sv_cumulative: the share of
    the sum of the singular values."""
    most: int | None = None
    """Upper bound of the rank; without a method the rank."""

    def rank(self, s: Tensor) -> int:
        """Ranks to keep of singular values `s` [n], the largest first.

        An index i is computed and clamped to 1 … n − 1, and i + 1 ranks are kept: one or two more than the value needs,
        as in sd-scripts. A layer of zeros keeps one.
        """
        count = len(s)
        most = count if self.most is None else min(self.most, count)
        if float(s[0]) <= _ZERO:
            return 1
        if self.method == "none":
            return most
        index = self._index(s.double())
        return min(max(1, min(index, count - 1)) + 1, most)

    def _index(self, s: Tensor) -> int:
        if self.method == "sv_ratio":
            return int((s > s[0] / self.value).sum())
        powers = s**2 if self.method == "sv_fro" else s
        share = powers.cumsum(0) / powers.sum()
        target = self.value**2 if self.method == "sv_fro" else self.value
        return int(torch.searchsorted(share, target)) + 1
