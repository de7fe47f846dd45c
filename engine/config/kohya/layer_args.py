"""Settings that choose layers and give them ranks and rates, as Kohya's `network_args`."""

from __future__ import annotations

from typing import Any

from engine.config import block_values
from engine.config.flux import LAYER_SETTINGS, FluxTable
from engine.config.layers import ROWS_OF_WEIGHTS, LayersTable
from engine.config.schema import RunConfig

_ROWS = {25: (0, 12, 13, 25), 23: (1, 10, 13, 22)}
"""Length of a list of all blocks to the ends of its down, middle and up blocks."""
OF_LYCORIS = frozenset({"preset"})
"""Arguments of LyCORIS' module only."""
OF_NEWER = frozenset({"include_patterns", "exclude_patterns"})
"""Arguments of Kohya's modules for LoHa, LoKr and newer models only."""


def layer_args(config: RunConfig) -> dict[str, str]:
    """Kohya's arguments for the settings that are not at their defaults, as its scripts get and store them."""
    plain = LayersTable()
    values = {key: getattr(config.network, key) for key in LayersTable.model_fields}
    set_values = {key: value for key, value in values.items() if value != getattr(plain, key)}
    if "block_lr_weight" in set_values:
        set_values |= _rows(set_values.pop("block_lr_weight"))
    table = FluxTable()
    own = {key: getattr(config.flux, key) for key in LAYER_SETTINGS}
    set_values |= {key: value for key, value in own.items() if value != getattr(table, key)}
    return {key: _text(value) for key, value in set_values.items()}


def _rows(text: str) -> dict[str, str]:
    """One list of all blocks as the three of the scripts."""
    factors = block_values.plain_weights(text)
    ends = _ROWS.get(len(factors))
    if ends is None:
        return {}
    parts = [factors[start:end] for start, end in zip(ends, ends[1:], strict=False)]
    return {key: ",".join(f"{factor:g}" for factor in part) for key, part in zip(ROWS_OF_WEIGHTS, parts, strict=True)}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
