"""The time that is written into files."""

from __future__ import annotations

import os
import time
from datetime import datetime

from engine.errors import UsageError


def now() -> float:
    """Unix time in seconds; SOURCE_DATE_EPOCH when it is set, so that two runs can give the same bytes.

    Raises:
        UsageError: SOURCE_DATE_EPOCH is not a number.
    """
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not fixed:
        return time.time()
    try:
        seconds = float(int(fixed))
        datetime.fromtimestamp(seconds)
        return seconds
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"The environment variable SOURCE_DATE_EPOCH is {fixed!r}, which is not a time in whole seconds.",
            "Give it the seconds since 1970, or unset it.",
            code="clock-not-possible",
        ) from error
