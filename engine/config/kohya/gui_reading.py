"""A configuration of the GUI on its way to arguments of the scripts, and what its values mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.config.kohya.arguments import Conversion
from engine.config.kohya.rules import Rule, Status


def is_on(value: Any) -> bool:
    """Whether a switch is on, however a version writes that."""
    return value is True or str(value).lower() in ("true", "1", "on")


def is_zero(value: Any) -> bool:
    """Whether it is the number 0, or that as text."""
    return not isinstance(value, bool) and str(value) in ("0", "0.0")


def is_nothing(value: Any) -> bool:
    """What the GUI does not pass on: empty, off, or 0, which it takes for off."""
    return value in ("", None, False, [], "None", "none") or is_zero(value)


def as_float(value: Any) -> float:
    """A number however it is written; 0 where it is none, as the GUI reads it."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return found if math.isfinite(found) else 0.0


@dataclass
class GuiReading:
    """A configuration on its way to arguments of the scripts."""

    content: Mapping[str, Any]
    exact: bool
    found: Conversion = field(default_factory=lambda: Conversion(""))
    arguments: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    """Argument to the GUI's key that it comes from; "" where that was told already."""

    def number(self, key: str, missing: float = 0.0) -> float:
        """The number behind a key; `missing` where there is no such key."""
        return as_float(self.content.get(key, missing))

    def on(self, key: str) -> bool:
        """Whether the switch of that name is on."""
        return is_on(self.content.get(key))

    def tell(self, key: str, status: Status, text: str, target: str = "", value: Any = None) -> None:
        """Note what becomes of a key; `value` where that is not what the file has."""
        self.found.tell(key, self.content.get(key) if value is None else value, Rule(status, target, text))

    def take(self, argument: str, value: Any, key: str = "") -> None:
        """Set an argument; `key` is the GUI's name for it where it is to be told with the arguments."""
        self.arguments[argument] = value
        self.origin[argument] = key

    @property
    def flux(self) -> bool:
        """The configuration is for FLUX."""
        return self.on("flux1_checkbox")

    @property
    def sdxl(self) -> bool:
        """The configuration is for SDXL."""
        return self.on("sdxl") or self.on("sdxl_checkbox")
