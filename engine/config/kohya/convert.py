"""Any file of Kohya's instead of a preset: recognised by its content and converted to a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from engine.config.conversion import Conversion, Rule
from engine.config.kohya.arguments import CLI_DEFAULTS, convert_arguments, flattened
from engine.config.kohya.command_line import convert_command_line, is_command_line, option_lines
from engine.config.kohya.dataset_file import is_dataset_config
from engine.config.kohya.gui import convert_gui, is_gui_configuration
from engine.config.kohya.other_trainings import (
    MARKS,
    calls_no_lora_script,
    training_of_keys,
    training_of_script,
    trains_a_lora,
)
from engine.config.kohya.rules import ARGUMENTS
from engine.config.lines import json_lines, toml_lines
from engine.config.moved import MOVED
from engine.config.problems import ConfigError, keys, limit_problem
from engine.errors import UsageError
from engine.reading import parse_json, parse_toml
from engine.text import printable

FEWEST = 3
"""Fewest arguments of a training TOML; with fewer it is more likely a preset with errors."""
_SIGNS = ("network_module", "pretrained_model_name_or_path")
"""Arguments that nearly every training TOML has."""
_ONLY_LORAS = "Only LoRAs are trained here: choose a preset (`lorasmith presets`), and name model and images with it."


def conversion_of(path: Path, text: str, *, exact: bool = False) -> Conversion | None:
    """The conversion of a file of Kohya's; None when it is a configuration of this program, or another file.

    It contains every problem, with file and line.

    Args:
        exact: taken literally, as with `training.kohya_exact`.

    Raises:
        UsageError: it is a dataset configuration, which needs a preset, or is for another training than that of a
            LoRA.
        ConfigError: it is invalid JSON.
    """
    content, lines = _parsed(text), dict[str, int]()
    other = training_of_script(text) if content is None else None
    if content is None and is_command_line(text) and not (other and calls_no_lora_script(text)):
        conversion: Conversion | None = convert_command_line(
            text, suffix=path.suffix, own_folder=str(path.absolute().parent), exact=exact
        )
        lines = option_lines(text)
    elif content is None:
        _require_json(path, text)
        if other:
            raise UsageError(
                f"{printable(path)} calls {other[0]}, the script of {other[1]}.",
                _ONLY_LORAS,
                code="kohya-trains-no-lora",
            )
        conversion = None
    elif is_dataset_config(content):
        raise UsageError(
            f"{printable(path)} is a dataset configuration: it has the images, not how to train.",
            f"Name a preset, and this file with it: --preset sdxl --dataset_config {printable(path)}",
            code="kohya-dataset-config",
        )
    elif is_gui_configuration(content):
        if not trains_a_lora(content):
            what = training_of_keys(content) or "DreamBooth, which trains the whole model"
            raise UsageError(
                f"{printable(path)} is a configuration of the GUI for {what}.", _ONLY_LORAS, code="kohya-trains-no-lora"
            )
        conversion = convert_gui(content, exact=exact)
        lines = {str(key[0]): line for key, line in json_lines(text).items() if len(key) == 1}
    elif _is_training_toml(content):
        conversion = _training_toml(path, content, exact=exact)
        lines = _argument_lines(text, content)
    else:
        conversion = None
    if conversion is not None:
        conversion.place(printable(path), lines, "additional_parameters")
        conversion.values.setdefault("saving", {}).setdefault("output_name", path.stem)
    return conversion


def read_as_preset(path: Path, text: str) -> str:
    """A remark on a file that is read as a preset, although all its keys, with `network_module`, are also arguments of
    Kohya's; "" for any other file."""
    content = _parsed(text) or {}
    flat = flattened(content)
    if "network_module" not in flat or len(flat) < FEWEST or not all(key in ARGUMENTS for key in flat):
        return ""
    return (
        f"{printable(path)} is read as a preset of this program, in whose tables all its keys have their place. If it "
        "is a training TOML of Kohya's, whose own defaults are to hold, give the tables other names."
    )


def _training_toml(path: Path, content: Mapping[str, Any], *, exact: bool) -> Conversion:
    arguments = flattened(content)
    if not trains_a_lora(arguments):
        what = training_of_keys(arguments)
        message = f"is for {what}" if what else "has no network_module: it trains no LoRA, but the whole model"
        hint = 'For a LoRA add network_module = "networks.lora".'
        raise UsageError(f"{printable(path)} {message}.", f"{_ONLY_LORAS} {hint}", code="kohya-trains-no-lora")
    conversion = convert_arguments(arguments, "training TOML", CLI_DEFAULTS, exact=exact, from_file=arguments)
    if ours := [name for name in content if name in keys()]:
        unlike = next(key for key in arguments if key in ARGUMENTS and not _has_place(content, key))
        text = f"read as a training TOML of Kohya's, where tables mean nothing: {unlike} has no such place in a preset"
        conversion.record("tables", ", ".join(ours), Rule("no effect", "", text))
    return conversion


def _argument_lines(text: str, content: Mapping[str, Any]) -> dict[str, int]:
    """Line of each argument of a training TOML, in whichever table it is."""
    lines: dict[str, int] = {}
    for key, line in toml_lines(text).items():
        if len(key) == 2 or (len(key) == 1 and not isinstance(content.get(str(key[0])), dict)):
            lines[str(key[-1])] = line
    return lines


def _parsed(text: str) -> dict[str, Any] | None:
    for read in (partial(parse_json, surrogates=False), parse_toml):
        try:
            content = read(text)
        except ValueError:
            continue
        return content if isinstance(content, dict) else None
    return None


def _require_json(path: Path, text: str) -> None:
    """Report the error in a file that is meant as JSON."""
    if path.suffix.lower() != ".json" and not text.lstrip().startswith("{"):
        return
    try:
        parse_json(text, surrogates=False)
    except ValueError as error:
        raise ConfigError([limit_problem(printable(path), "JSON", error, lambda: json_lines(text))]) from None


def _has_place(content: Mapping[str, Any], key: str) -> bool:
    """Whether a key is where a preset of this program has it."""
    return any(
        isinstance(members, dict) and key in members and (key in keys().get(name, ()) or f"{name}.{key}" in MOVED)
        for name, members in content.items()
    )


def _is_training_toml(content: Mapping[str, Any]) -> bool:
    """Whether a TOML file is Kohya's, decided by its keys, as its tables may have any name.

    A file with a key that only presets have, and most keys in the right tables, is a preset. A file whose tables have
    the names of ours is Kohya's where it has arguments that no preset has.
    """
    flat = flattened(content)
    arguments = [key for key in flat if key in ARGUMENTS or key in MARKS]
    ours = {key for members in keys().values() for key in members}
    placed = [key for key in flat if _has_place(content, key)]
    misplaced = [key for key in arguments if key not in placed]
    signs = [key for key in _SIGNS if key in flat]
    if len(arguments) < FEWEST:
        return False
    if 2 * len(placed) < len(flat):
        return 2 * len(arguments) >= len(flat) or any(key in misplaced for key in signs)
    if any(key not in ARGUMENTS for key in placed):
        return False
    foreign = [key for key in misplaced if key not in ours]
    return bool(foreign and "network_module" in flat) or (len(misplaced) > 1 and any(key in misplaced for key in signs))
