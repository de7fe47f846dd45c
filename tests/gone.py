"""Waiting for processes that are nobody's children any more."""

from __future__ import annotations

import time
from collections.abc import Iterable

from engine.processes import process_start


def still_there(pids: Iterable[int], seconds: float = 20) -> list[int]:
    """Those that live after at most `seconds`; a zombie that no init reaps is dead."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if process_start(pid) is not None]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
