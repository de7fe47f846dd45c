"""A configuration of another program instead of a preset: Kohya's, or another trainer's."""

from __future__ import annotations

from pathlib import Path

from engine.config.conversion import Conversion
from engine.config.kohya import convert as kohya
from engine.config.others import registry


def conversion_of(path: Path, text: str, *, exact: bool = False) -> Conversion | None:
    """The conversion of another program's file; None when it is a configuration of this program, or another file.

    It contains every problem, with file and line.

    Args:
        exact: a file of Kohya's is taken literally, as with `training.kohya_exact`.

    Raises:
        UsageError: it cannot be converted; the message names the program.
        ConfigError: it is invalid JSON or YAML.
    """
    conversion = registry.conversion_of(path, text)
    return kohya.conversion_of(path, text, exact=exact) if conversion is None else conversion
