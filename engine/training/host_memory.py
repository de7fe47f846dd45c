"""The C library's handling of large blocks of memory, for runs on the CPU."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`, as in its malloc.h."""
_NEVER = -1
_BY_THE_USER = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables by which somebody has decided already."""


def keep_freed_memory() -> bool:
    """Let the process keep the memory that its tensors free, and use it again; returns whether the C library can.

    By default glibc gives each block over 32 MiB back to the system at once, and every step gets new pages for its
    activations, which the system fills with zeros: 15 % of a step of Stable Diffusion 1.5 at 256 × 256 on the CPU
    (`benchmarks/step_time.py`). The highest use stays the same, but it is held between the steps too.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _BY_THE_USER):
        return False
    try:
        library = ctypes.CDLL(None)
        return bool(library.mallopt(_MMAP_MAX, 0) and library.mallopt(_TRIM_THRESHOLD, _NEVER))
    except (AttributeError, OSError):  # another C library
        return False
