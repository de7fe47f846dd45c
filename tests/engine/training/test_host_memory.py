"""Memory that a run on the CPU frees stays with the process, unless somebody has decided otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
from engine.training.host_memory import keep_freed_memory
kept = keep_freed_memory()
for _ in range(24):  # a few are placed side by side before one takes the memory of another
    torch.ones(2**24).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(2**24).sum()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 4 * 2**24 * 4 // os.sysconf("SC_PAGE_SIZE")
"""Of the four tensors of 64 MiB."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(("own", "kept"), [({}, True), ({"MALLOC_MMAP_THRESHOLD_": "131072"}, False)])
def test_large_tensors_get_the_pages_of_freed_ones(own: dict[str, str], kept: bool) -> None:
    names = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS], env={**environment, **own}, capture_output=True, text=True, check=True
    )
    answer, faults = done.stdout.split()
    assert answer == str(kept)
    assert (int(faults) < PAGES / 2) == kept
