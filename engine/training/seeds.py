"""Seeds for every random number of a run, derived from the run's seed and the purpose.

A resumed run therefore needs no saved generator state: the step is enough.
"""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *parts: int | str) -> int:
    """A 63-bit seed for one purpose: `derive(42, "step", 7, 0)`."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *parts: int | str) -> torch.Generator:
    """A generator for one purpose, on the CPU, so that its numbers are the same with every device."""
    return torch.Generator("cpu").manual_seed(derive(seed, *parts))
