"""Checks of single values in run files: a run directory may come from another machine or a stranger.

Each function returns the value, or None where it is missing, of another type or out of range.
"""

from __future__ import annotations

import math
import time
import unicodedata
from typing import Any

MAX_COUNT = 2**53
"""Steps, bytes and images: numbers from here on are not exact as floats, and no real count is as large."""
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
    return {str(name): finite for name, value in items if (finite := number(value)) is not None}


def seconds(value: Any) -> float | None:
    """A time in seconds since 1970, up to the year 9999."""
    moment = number(value)
    return moment if moment is not None and 0 <= moment < MAX_SECONDS and math.isfinite(moment) else None


def local_time(value: Any) -> time.struct_time | None:
    """`seconds` as local time."""
    moment = seconds(value)
    return None if moment is None else time.localtime(moment)


def text(value: Any) -> str | None:
    """A text."""
    return value if isinstance(value, str) else None


def file_name(value: Any) -> str | None:
    """A text that can be a file name: without a path, and not "." or ".."."""
    if not isinstance(value, str) or not value.strip() or value in (".", "..") or "/" in value:
        return None
    try:
        length = len(value.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return None
    if length > LONGEST_NAME or any(unicodedata.category(character) == "Cc" for character in value):
        return None
    return value
