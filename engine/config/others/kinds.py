"""LoKr of other trainers, whose settings have the meaning of LyCORIS' as long as the factor is small enough."""

from __future__ import annotations

from engine.config.kohya.network_args import within_limits
from engine.config.others.table import Reading

_LARGEST_FACTORS = {"flux": 55}
"""By family: up to this factor each side of a layer (3072 and more) is split into the factor and a larger number."""
_LARGEST_FACTOR = 17
"""The same for U-Nets, whose smallest side is 320."""


def kronecker(reading: Reading, factor_key: str) -> None:
    """Convert the factor of LoKr, once rank and matrices are converted.

    Where the square of a factor is above a side, ai-toolkit has the larger number first and LyCORIS the smaller: that
    is another adapter, which is refused.
    """
    factor, largest = reading.get(factor_key), _LARGEST_FACTORS.get(reading.family, _LARGEST_FACTOR)
    if factor is not None and factor > largest:
        reading.fail(factor_key, f"a layer would be split in another way: use {largest} at most, or -1")
    elif factor is not None:
        reading.use(factor_key, "network.factor", max(factor, -1))
    within_limits(reading.conversion)
