"""A single value from and to text."""

from __future__ import annotations

import json
import tomllib
from typing import Any


def parse_value(written: str) -> Any:
    """Parse a value as TOML, else as text. "unset", or "none", leaves a key unset."""
    if written.strip().lower() in ("none", "unset"):
        return None
    try:
        return tomllib.loads(f"value = {written}")["value"]
    except (ValueError, RecursionError):
        return written


def written(value: Any) -> str:
    """A value as text for `--set`: TOML, or bare text where that means the same."""
    if value is None:
        return "unset"
    if isinstance(value, str) and parse_value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # which JSON allows and TOML does not
