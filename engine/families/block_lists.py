"""Reads Kohya's lists by block for a family: the ranks, alphas and factors on the learning rate of each block.

Facts: sd-scripts `networks/lora.py`, get_block_dims_and_alphas and get_block_lr_weight. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.config import block_values
from engine.config.layers import RANK_LISTS, ROWS_OF_WEIGHTS
from engine.config.network import NetworkTable
from engine.errors import UsageError
from engine.families.spec import BlockLists


@dataclass(frozen=True)
class BlockTable:
    """One value for each block, or None where the settings have none."""

    lists: BlockLists
    ranks: Sequence[int] | None = None
    alphas: Sequence[float] | None = None
    conv_ranks: Sequence[int] | None = None
    conv_alphas: Sequence[float] | None = None
    weights: Sequence[float] | None = None
    """Factors on the learning rate; 0: not trained."""
    notes: tuple[str, ...] = ()
    """A sentence for each list that was filled or cut."""


def read_block_lists(network: NetworkTable, lists: BlockLists | None) -> BlockTable | None:
    """The settings by block; None where the family has no such lists.

    Raises:
        UsageError: a list has another length than the family's.
    """
    if lists is None:
        return None
    notes: list[str] = []
    weights = _weights(network, lists, notes)
    if not network.has_block_ranks:
        return BlockTable(lists, weights=weights, notes=tuple(notes))
    for key in RANK_LISTS:
        _require_length(network, key, lists)
    return BlockTable(
        lists,
        None if network.block_dims is None else block_values.ranks(network.block_dims),
        None if network.block_alphas is None else block_values.alphas(network.block_alphas),
        None if network.conv_block_dims is None else block_values.ranks(network.conv_block_dims),
        None if network.conv_block_alphas is None else block_values.alphas(network.conv_block_alphas),
        weights,
        tuple(notes),
    )


def _require_length(network: NetworkTable, key: str, lists: BlockLists) -> None:
    text = getattr(network, key)
    if text is not None and len(text.split(",")) != lists.length:
        ends = ", 1 before and 1 behind them" if lists.ends else ""
        raise UsageError(
            f"network.{key} has {len(text.split(','))} values, and this kind of model has {lists.length} blocks.",
            f"Write {lists.length} values, separated by commas: {lists.down} for the down blocks, {lists.middle} for "
            f"the middle, {lists.up} for the up blocks{ends}.",
            code="block-list-wrong-length",
        )


def _weights(network: NetworkTable, lists: BlockLists, notes: list[str]) -> tuple[float, ...] | None:
    """The factors on the learning rate of all blocks; those that are set are 0 up to the threshold."""
    if not network.has_weights:
        return None
    if network.block_lr_weight is not None:
        _require_length(network, "block_lr_weight", lists)
        return _above(network, block_values.plain_weights(network.block_lr_weight))
    lengths = (lists.down, lists.middle, lists.up)
    rows = [_row(network, key, length, notes) for key, length in zip(ROWS_OF_WEIGHTS, lengths, strict=True)]
    end = [1.0] if lists.ends else []
    return (*end, *rows[0], *rows[1], *rows[2], *end)


def _row(network: NetworkTable, key: str, length: int, notes: list[str]) -> tuple[float, ...]:
    text = getattr(network, key)
    if text is None:
        return (1.0,) * length
    read = block_values.plain_weights(text) if key == "mid_lr_weight" else block_values.weights(text, length)
    if len(read) < length:
        notes.append(f"network.{key} has {len(read)} of {length} values: the others are 1, as in Kohya.")
    if len(read) > length:
        notes.append(f"network.{key} has {len(read)} values: those after the first {length} are ignored, as in Kohya.")
    return _above(network, block_values.fitted(read, length))


def _above(network: NetworkTable, factors: Sequence[float]) -> tuple[float, ...]:
    return tuple(factor if factor > network.block_lr_zero_threshold else 0.0 for factor in factors)
