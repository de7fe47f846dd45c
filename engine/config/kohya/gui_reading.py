"""Converts a configuration of the GUI to arguments of the scripts, and reads its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.config.conversion import Conversion, Rule, Status
from engine.config.kohya.argument_values import integer_of, number_of
from engine.config.problems import Problem

FREE_TEXT = ("output_name", "training_comment", "metadata_", "wandb_run_name", "log_", "train_double_block_indices",
             "train_single_block_indices", "sample_prompts", "additional_parameters")  # fmt: skip
"""Prefixes of keys whose value may be any word."""


def is_on(value: Any) -> bool:
    """Whether a switch is on, in the spelling of any version."""
    return value is True or str(value).lower() in ("true", "1", "on")


def is_zero(value: Any) -> bool:
    """Whether it is the number 0, or "0"."""
    return number_of(value) == 0


def is_nothing(value: Any, key: str = "") -> bool:
    """Whether the GUI does not pass a value on: empty, off, or 0, which counts as off.

    Args:
        key: of the value: the words "None" and "False" are values of some keys, and mean nothing for others.
    """
    if isinstance(value, str) and value.strip().lower() in ("none", "false"):
        return not key.startswith(FREE_TEXT)
    return value in ("", None, False, []) or is_zero(value)


def as_float(value: Any) -> float:
    """A number in any spelling; 0 where it is none, as the GUI reads it."""
    return number_of(value) or 0.0


@dataclass
class GuiReading:
    """A configuration of the GUI while it is converted to arguments of the scripts."""

    content: Mapping[str, Any]
    exact: bool
    conversion: Conversion = field(default_factory=lambda: Conversion(""))
    arguments: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    """Argument to the GUI's key that it comes from; "" where that is recorded already."""
    sources: dict[str, str] = field(default_factory=dict)
    """The same, also where it is recorded; "" where the file has no such key."""

    def number(self, key: str, missing: float = 0.0) -> float:
        """The number of a key, 0 where it is empty; `missing` where there is no such key. An invalid value is a
        problem, reported once, and counts as `missing`."""
        return float(self._number(key, missing, number_of, "a number"))

    def integer(self, key: str, missing: int = 0) -> int:
        """The same for a whole number."""
        return int(self._number(key, missing, integer_of, "a whole number"))

    def _number(self, key: str, missing: Any, read: Callable[[Any], Any], allowed: str) -> Any:
        if key not in self.content:
            return missing
        value = self.content[key]
        if is_nothing(value, key):
            return 0
        number = read(value)
        if number is None:
            if all(problem.key != key for problem in self.conversion.problems):
                message = f"{value!r} is not valid: enter {allowed}."
                self.conversion.problems.append(Problem("", key, message))
            return missing
        return number

    def off(self, key: str) -> bool:
        """Whether the GUI passes nothing on for a key."""
        return is_nothing(self.content.get(key), key)

    def on(self, key: str) -> bool:
        """Whether the switch of that name is on."""
        return is_on(self.content.get(key))

    def record(self, key: str, status: Status, text: str, target: str = "", value: Any = None) -> None:
        """Record the result for a key; `value` where it differs from the file."""
        self.conversion.record(key, self.content.get(key) if value is None else value, Rule(status, target, text))

    def take(self, argument: str, value: Any, key: str = "", *, source: str = "") -> None:
        """Set an argument; `key` is the GUI's name under which it is reported, if the file has it. `source` is the key
        that it comes from where that is recorded already."""
        self.arguments[argument] = value
        self.origin[argument] = key if key in self.content else ""
        self.sources[argument] = source or self.origin[argument]

    @property
    def flux(self) -> bool:
        """The configuration is for FLUX."""
        return self.on("flux1_checkbox")

    @property
    def sdxl(self) -> bool:
        """The configuration is for SDXL."""
        return self.on("sdxl") or self.on("sdxl_checkbox")

    @property
    def family(self) -> str:
        """The family of the script that the GUI calls."""
        return "flux" if self.flux else "sdxl" if self.sdxl else "sd15"
