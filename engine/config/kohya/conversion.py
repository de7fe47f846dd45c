"""The result of converting a file of Kohya's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.config.kohya.rules import SECRETS, Rule, Status
from engine.config.problems import Problem
from engine.text import printable


@dataclass(frozen=True)
class Entry:
    """The result for one key."""

    key: str
    value: str
    status: Status
    target: str
    text: str

    def line(self) -> str:
        """One sentence."""
        to = f" → {self.target}" if self.target else ""
        return f"{self.key} = {self.value}: {self.status}{to}{f' ({self.text})' if self.text else ''}"


@dataclass
class Conversion:
    """A file of Kohya's as a configuration."""

    kind: str
    """"training TOML", "GUI configuration", "command line"."""
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By table and key, as a preset has them."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of the scripts, unconverted."""
    sources: dict[str, str] = field(default_factory=dict)
    """Key of the configuration to the key of the file that sets it."""
    places: dict[str, str] = field(default_factory=dict)
    """Key of the configuration to the file and line that set it."""
    unset: list[str] = field(default_factory=list)
    """Keys that are empty, off or, in a GUI file, 0, and change nothing."""
    exact: bool = False
    """Taken literally, as with `training.kohya_exact`."""
    family: str = ""
    """"sd15", "sdxl", "flux", "sd" for one of the first two; "" where the file leaves it open."""
    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def set(self, dotted: str, value: Any, source: str = "") -> None:
        """Put a value into the configuration.

        Args:
            source: the key of the file that it comes from.
        """
        table, _, key = dotted.partition(".")
        self.values.setdefault(table, {})[key] = value
        if source:
            self.sources[dotted] = source

    def record(self, key: str, value: Any, rule: Rule) -> None:
        """Record the result for a key; an unsupported one is a problem."""
        text = "(not shown)" if key in SECRETS else printable(as_text(value))
        self.entries.append(Entry(key, text, rule.status, rule.target, rule.text))
        if rule.status == "not supported":
            hint = f"{rule.text[:1].upper()}{rule.text[1:]}."
            self.problems.append(Problem("", key, f"{text} is given, which is not supported.", hint))

    def notes(self) -> list[str]:
        """Notes for the person: on everything that is not simply honoured."""
        return [entry.line() for entry in self.entries if entry.status != "honoured"]


def as_text(value: Any) -> str:
    """A value of a file in one line."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
