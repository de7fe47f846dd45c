"""Every random draw of a run is a function of the run's seed and of what it is for.

A resumed run therefore needs no saved generator: the position says everything.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *parts: int | str) -> int:
    """A 63-bit seed for one purpose: `derive(42, "step", 7, 0)`."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *parts: int | str) -> torch.Generator:
    """A CPU generator for one purpose; drawing on the CPU makes the numbers the same on every device."""
    import torch

    return torch.Generator("cpu").manual_seed(derive(seed, *parts))
