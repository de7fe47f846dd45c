"""Any file of Kohya's where a preset is taken: recognised by its content and turned into a configuration."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.config.kohya.arguments import CLI_DEFAULTS, Conversion, convert_arguments, flattened
from engine.config.kohya.command_line import convert_command_line, is_command_line
from engine.config.kohya.dataset_file import is_dataset_config
from engine.config.kohya.gui import convert_gui, is_gui_configuration
from engine.config.kohya.rules import rule_of
from engine.config.problems import ConfigError, Problem, keys
from engine.errors import UsageError
from engine.text import printable

FEWEST = 3
"""Arguments that a training TOML has at least; with fewer it is rather a preset gone wrong."""


def conversion_of(path: Path, text: str, *, exact: bool = False) -> Conversion | None:
    """What a file of Kohya's amounts to; None when it is a configuration of this program, or no file of Kohya's.

    Every problem is inside, with the file as its place.

    Args:
        exact: taken at its word, as with `training.kohya_exact`.

    Raises:
        UsageError: it is a dataset configuration, which needs a preset beside it.
        ConfigError: it is meant as JSON, and is not valid.
    """
    content = _parsed(text)
    if content is None and is_command_line(text):
        found: Conversion | None = convert_command_line(text, suffix=path.suffix, exact=exact)
    elif content is None:
        _require_json(path, text)
        found = None
    elif is_dataset_config(content):
        raise UsageError(
            f"{printable(path)} is a dataset configuration: it says which pictures, not how to train.",
            f"Name a preset, and this file beside it: --preset sdxl --dataset_config {printable(path)}",
        )
    elif is_gui_configuration(content):
        found = convert_gui(content, exact=exact)
    elif _is_training_toml(content):
        given = flattened(content)
        found = convert_arguments(given, "training TOML", CLI_DEFAULTS, exact=exact, from_file=given)
    else:
        found = None
    if found is not None:
        name = printable(path)
        found.problems = [replace(one, where=f"{name}, {one.where}" if one.where else name) for one in found.problems]
        found.values.setdefault("saving", {}).setdefault("output_name", path.stem)
    return found


def _parsed(text: str) -> dict[str, Any] | None:
    for read in (json.loads, tomllib.loads):
        try:
            content = read(text)
        except ValueError:
            continue
        return content if isinstance(content, dict) else None
    return None


def _require_json(path: Path, text: str) -> None:
    """Tell where a file that is meant as JSON stops being it."""
    if path.suffix.lower() != ".json" and not text.lstrip().startswith("{"):
        return
    try:
        json.loads(text)
    except ValueError as error:
        hint = "A comma too many, or a file that was not copied whole?"
        raise ConfigError([Problem(printable(path), "", f"not valid JSON: {error}.", hint)]) from None


def _is_training_toml(content: Mapping[str, Any]) -> bool:
    """Most keys are arguments of Kohya's, and it is none of ours, in whose tables most keys have their place."""
    known, flat = keys(), flattened(content)
    placed = sum(key in known.get(name, ()) for name, members in content.items() if isinstance(members, dict)
                 for key in members)  # fmt: skip
    if 2 * placed >= len(flat):
        return False
    arguments = sum(rule_of(key) is not None for key in flat)
    return arguments >= FEWEST and 2 * arguments >= len(flat)
