"""Joins the LoRAs of layers that are one layer in Kohya's files (FLUX's query, key, value).

The down matrices are stacked, the up matrices become a block diagonal. The ranks add up; with Kohya's factor
alpha / rank, alpha must grow by the same factor, or the LoRA becomes that many times weaker (sd-scripts #2204).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor, float]
"""Down [r, in], up [out, r], and the factor on their product: alpha / rank."""


def merge_pairs(pairs: Sequence[Pair | None], widths: Sequence[int], *, keeps_apart: bool = False) -> Pair:
    """Merge the LoRAs of layers with the same input into one of the joined layer.

    Args:
        pairs: of each layer, in the order of the rows; None: no LoRA.
        widths: the outputs of each layer.
        keeps_apart: each layer keeps a down matrix of its own, equal ones too.

    Returns:
        down [R, in], up [sum of out, R] and alpha / R. R is the sum of the ranks, and up a block diagonal; where all
        share one down matrix, R is its rank. For n LoRAs of equal rank and alpha: alpha' = n · alpha. The number
        format is that of the pairs, or float32 where their factors differ, which are then multiplied into up.
    """
    present = [pair for pair in pairs if pair is not None]
    if len({scale for _, _, scale in present}) > 1:
        pairs = [None if pair is None else (pair[0].float(), pair[1].float(), pair[2]) for pair in pairs]
        present = [pair for pair in pairs if pair is not None]
    first, _, scale = present[0]
    shared = not keeps_apart and all(down.shape == first.shape and torch.equal(down, first) for down, _, _ in present)
    ups = []
    for pair, width in zip(pairs, widths, strict=True):
        if pair is None:
            ups.append(first.new_zeros(width, len(first) if shared else 0))
        else:  # the module has one factor: a layer's differing factor goes into its up matrix
            ups.append(pair[1] if pair[2] == scale else pair[1] * (pair[2] / scale))
    if shared:
        return first, torch.cat(ups), scale
    diagonal: Tensor = torch.block_diag(*ups)  # type: ignore[no-untyped-call]
    return torch.cat([down for down, _, _ in present]), diagonal, scale


def merge_parts(parts: Mapping[int, tuple[int, Pair]], widths: Sequence[int], *, keeps_apart: bool = False) -> Pair:
    """`merge_pairs` for pairs that may cover several adjacent layers each.

    Args:
        parts: number of the first layer to how many layers it covers, and its pair; up has the rows of all of them.
        widths: the outputs of each layer.
        keeps_apart: as for `merge_pairs`.
    """
    pairs: list[Pair | None] = [None] * len(widths)
    for first, (count, (down, up, scale)) in parts.items():
        rows = torch.split(up, list(widths[first : first + count]))
        pairs[first : first + count] = [(down, part, scale) for part in rows]
    return merge_pairs(pairs, widths, keeps_apart=keeps_apart)
