"""Values that run files may hold, checked one by one: a run directory may come from another machine or a stranger.

Each function gives the value, or None where it is missing, of another kind or beyond what it may be.
"""

from __future__ import annotations

import math
import time
import unicodedata
from typing import Any

MAX_COUNT = 2**53
"""Steps, bytes and pictures: numbers from here on are not exact as floats, and nothing counts so far."""
MAX_NUMBER = 1e100
"""Losses and rates: sums and differences of numbers below it stay finite."""
MAX_PID = 2**31
MAX_SECONDS = 253_402_300_000
"""Seconds since 1970: the year 9999."""
LONGEST_NAME = 255
"""Bytes that a file name may have."""


def count(value: Any, limit: int = MAX_COUNT) -> int | None:
    """A whole number from 0 to below `limit`; 3.0 counts as one."""
    if isinstance(value, float) and value.is_integer() and abs(value) < limit:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < limit else None


def number(value: Any) -> float | None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -MAX_NUMBER < value < MAX_NUMBER else None


def numbers(table: Any) -> dict[str, float]:
    """The finite numbers of a table, by name."""
    items = table.items() if isinstance(table, dict) else ()
    return {str(name): found for name, value in items if (found := number(value)) is not None}


def seconds(value: Any) -> float | None:
    """A time in seconds since 1970 that a calendar has."""
    found = number(value)
    return found if found is not None and 0 <= found < MAX_SECONDS and math.isfinite(found) else None


def local_time(value: Any) -> time.struct_time | None:
    """`seconds` on the local calendar."""
    found = seconds(value)
    return None if found is None else time.localtime(found)


def text(value: Any) -> str | None:
    """A text."""
    return value if isinstance(value, str) else None


def file_name(value: Any) -> str | None:
    """A text that can be the name of a file: no part of a path, and nothing that leads elsewhere."""
    if not isinstance(value, str) or not value.strip() or value in (".", "..") or "/" in value:
        return None
    try:
        length = len(value.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return None
    if length > LONGEST_NAME or any(unicodedata.category(character) == "Cc" for character in value):
        return None
    return value
