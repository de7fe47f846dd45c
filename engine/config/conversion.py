"""A file of another program as a configuration: what became of each of its keys, and where each value comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from engine.config.local_paths import PATH_LISTS, PATH_OPTIONS, is_windows_path, windows_path_hint
from engine.config.problems import Problem
from engine.text import printable

Status = Literal["honoured", "better", "no effect", "not supported"]
_SECRET = re.compile(r"(api_?key|access_key|secret\w*|password|(^|[._])token|(hf|hub|huggingface|auth)_token)$", re.I)
"""Keys whose values are never shown; keep_tokens, max_token_length and the like are none."""


@dataclass(frozen=True)
class Rule:
    """How a key is converted."""

    status: Status
    target: str = ""
    """The dotted key of ours, where there is one."""
    text: str = ""
    """Why, and what to do instead."""


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
    """A file of another program as a configuration."""

    kind: str
    """"training TOML", "GUI configuration", "command line", "configuration"."""
    program: str = "Kohya"
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By table and key, as a preset has them."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of Kohya's scripts, unconverted."""
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
    datasets: Mapping[str, Any] | None = None
    """The folders of images in the file as the content of a dataset configuration; None where it has none."""
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
        text = shown(key, value)
        self.entries.append(Entry(printable(key), text, rule.status, rule.target, rule.text))
        if rule.status == "not supported":
            hint = f"{rule.text[:1].upper()}{rule.text[1:]}."
            self.problems.append(Problem("", key, f"{text} is given, which is not supported.", hint))

    def notes(self) -> list[str]:
        """Notes for the person: on everything that is not simply honoured."""
        return [entry.line() for entry in self.entries if entry.status != "honoured"]

    def place(self, path: str, lines: Mapping[str, int], fallback: str = "") -> None:
        """Add file and line to every problem, and to every key that the file sets; a hint to each Windows path, on
        another system.

        Args:
            lines: of each key.
            fallback: the key whose line counts for a key without one.
        """

        def where(key: str) -> str:
            names = (key, key.removeprefix("--"), *key.split(), *_holders(key))
            line = next((lines[name] for name in names if name in lines), lines.get(fallback))
            return f"{path}, line {line}" if line else path

        self.problems = [
            replace(item, where=f"{path}, {item.where}" if item.where else where(item.key), key=printable(item.key))
            for item in self.problems
        ]
        self.unset = [printable(key) for key in self.unset]
        for dotted, source in self.sources.items():
            suffix = "" if source == dotted.partition(".")[2] else f" ({source})"
            self.places[dotted] = f"{where(source)}{suffix}"
        self._mark_windows_paths()

    def _mark_windows_paths(self) -> None:
        for place, entry in enumerate(self.entries):
            table, _, key = entry.target.partition(".")
            value = self.values.get(table, {}).get(key)
            paths = value if entry.target in PATH_LISTS else [value] if entry.target in PATH_OPTIONS else []
            if any(isinstance(path, str) and is_windows_path(entry.target, path) for path in paths or []):
                self.entries[place] = replace(entry, text=windows_path_hint(entry.target))


def _holders(key: str) -> Iterator[str]:
    """The tables and lists in which a key is: of datasets[0].resolution datasets[0] and datasets."""
    while (shorter := re.sub(r"(\.[^.\[\]]*|\[\d*\])$", "", key)) != key:
        key = shorter
        yield key


def is_secret(key: str) -> bool:
    """Whether the value of a key is a password or a token, which is never shown."""
    return bool(_SECRET.search(key))


def shown(key: str, value: Any) -> str:
    """The value of a key as text."""
    if is_secret(key):
        return "(not shown)"
    return printable(" ".join(map(str, value)) if isinstance(value, list) else str(value))
