"""Converts a file of another trainer by a table with a row for each of its keys.

A key is written with dots: `train.lr`, `optimizer.beta1`. `*` at the end stands for all keys of that table.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from engine.config.conversion import Conversion, Entry, Rule, Status, is_secret
from engine.config.kohya.argument_values import integer_of, number_of
from engine.config.local_paths import CONTROLS_HINT, CONTROLS_MESSAGE, has_controls
from engine.config.problems import Problem
from engine.config.schema import RunConfig
from engine.text import printable

ABSENT = object()
"""No default: the key changes nothing where it is absent."""
_LONGEST = 200
"""Characters of a value in a report."""
AS_HERE = "as it is here"


@dataclass(frozen=True)
class Key:
    """How a key is converted."""

    status: Status
    target: str = ""
    """The dotted key of ours, where there is one."""
    text: str = ""
    """Why, and what to do instead."""
    kind: str = ""
    """Of `KINDS`; "": any value."""
    default: Any = ABSENT
    """The program's, in its own spelling, which counts where the file has no such key."""
    same: tuple[Any, ...] = ()
    """Values of an unsupported key with which it does what is done here."""
    choices: Mapping[str, Any] = field(default_factory=dict)
    """Their words in lower case to our values, or to a `Rule` for a word that has none."""
    families: tuple[str, ...] = ()
    """Where it has an effect; (): in every family."""
    together: bool = False
    """Converted by a function, with other keys."""

    @property
    def rule(self) -> Rule:
        """The row as the documentation shows it."""
        return Rule(self.status, self.target, self.text)


def honoured(target: str, kind: str, text: str = "", **more: Any) -> Key:
    """A key with a setting of ours."""
    return Key("honoured", target, text, kind, **more)


def choice(target: str, choices: Mapping[str, Any], text: str = "", **more: Any) -> Key:
    """A key whose words have settings of ours."""
    return Key("honoured", target, text, "text", choices=choices, **more)


def ignored(text: str) -> Key:
    """A key without effect here."""
    return Key("no effect", "", text)


def refused(text: str, *same: Any) -> Key:
    """A key that is not supported, except with the values `same`."""
    return Key("not supported", "", text, same=same)


def together(target: str, kind: str, text: str = "", **more: Any) -> Key:
    """A key that a function converts with others."""
    return Key("honoured", target, text, kind, together=True, **more)


def all_of(key: Key, names: str) -> dict[str, Key]:
    """The same row for several keys."""
    return dict.fromkeys(names.split(), key)


def _flag(raw: Any) -> bool | None:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str):
        return {"true": True, "false": False}.get(raw.strip().lower())
    return bool(raw) if isinstance(raw, int | float) and raw in (0, 1) else None


def _text(raw: Any) -> str | None:
    if isinstance(raw, (bool, list, dict)) or raw is None:
        return None
    return str(raw)


def _texts(raw: Any) -> list[str] | None:
    members = raw if isinstance(raw, list) else [raw]
    texts = [_text(item) for item in members]
    return None if None in texts else [str(text) for text in texts]


def _table(raw: Any) -> dict[str, Any] | None:
    return raw if isinstance(raw, dict) else None


def _list(raw: Any) -> list[Any] | None:
    return raw if isinstance(raw, list) else None


KINDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "": (lambda raw: raw, "any value"),
    "number": (number_of, "a number"),
    "integer": (integer_of, "a whole number"),
    "flag": (_flag, "true or false"),
    "text": (_text, "text"),
    "optional text": (lambda raw: "" if raw is False else _text(raw), "text, or false for none"),
    "path": (_text, "a path"),
    "texts": (_texts, "text, or a list of texts"),
    "table": (_table, "a table"),
    "list": (_list, "a list"),
}
"""By name: how a value is read (None: not of this kind), and what is allowed in words."""


def brief(value: Any) -> str:
    """A value as a report shows it: tables and long texts are not written out."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        if any(isinstance(item, (dict, list)) for item in value):
            return f"a list of {len(value)}"
        value = ", ".join(map(str, value))
    text = printable(str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


@cache
def our_default(dotted: str) -> Any:
    """The default of one of our settings."""
    table, _, key = dotted.partition(".")
    return getattr(getattr(RunConfig(), table), key)


@dataclass
class Reading:
    """A file while it is converted: its keys, their table, and the result."""

    program: str
    table: Mapping[str, Key]
    content: dict[str, Any]
    """The file's keys with dots, as `flat` makes them."""
    conversion: Conversion
    family: str = ""
    """"sd15", "sdxl" or "flux", once it is known."""
    prefix: str = ""
    """In front of each key in the report: "datasets[0]."."""
    _invalid: set[str] = field(default_factory=set)
    _recorded: set[str] = field(default_factory=set)

    def has(self, key: str) -> bool:
        """Whether the file has the key, with a value."""
        return self.content.get(key) not in (None, "")

    def get(self, key: str) -> Any:
        """The value of a key in its kind; the program's default where it is absent, None where there is none. A value
        of another kind is a problem, reported once, and counts as absent."""
        row = self.table[key]
        if self.has(key) and key not in self._invalid:
            read, allowed = KINDS[row.kind]
            value = read(self.content[key])
            if value is not None:
                if row.kind == "path" and has_controls(value):
                    self._problem(key, f"{value!r} {CONTROLS_MESSAGE}", CONTROLS_HINT)
                    return None
                return value
            self._problem(key, f"{brief(repr(self.content[key]))} is not valid: enter {allowed}.")
        return None if row.default is ABSENT else row.default

    def is_open(self, key: str) -> bool:
        """Whether the file has the key, and nothing is reported of it so far."""
        return self.has(key) and key not in self._recorded

    def fail(self, key: str, text: str, value: Any = None) -> None:
        """Report a value that is not supported, with what can be done; where the file lacks the key, the default."""
        if self.has(key) or value is not None:
            self.record(key, "not supported", text, value=value)
            return
        name, default = f"{self.prefix}{key}", brief(self.table[key].default)
        self.conversion.entries.append(Entry(name, default, "not supported", "", self.absent(text)))
        message = f"absent, and {self.program}'s default {default} is not supported."
        self.conversion.problems.append(Problem("", name, message, f"{text[:1].upper()}{text[1:]}."))

    def _problem(self, key: str, message: str, hint: str = "") -> None:
        self._invalid.add(key)
        self._recorded.add(key)
        if is_secret(key):
            message = "a value that is not shown is not of the kind that is allowed."
        self.conversion.problems.append(Problem("", f"{self.prefix}{key}", message, hint))

    def record(self, key: str, status: Status, text: str = "", target: str = "", value: Any = None) -> None:
        """Record the result for a key; `value` where it is not the file's."""
        self._recorded.add(key)
        value_of = self.content.get(key) if value is None else value
        self.conversion.record(f"{self.prefix}{key}", brief(value_of), Rule(status, target, text))

    def use(self, key: str, target: str, value: Any, text: str = "", status: Status = "honoured") -> None:
        """Set one of our settings from a key. The program's default is reported where it is not ours."""
        if key in self._invalid:
            return
        source = f"{self.prefix}{key}"
        self.conversion.set(target, value, source if self.has(key) else "")
        if self.has(key):
            self.record(key, status, text, target)
        elif value != our_default(target):
            self.record(key, status, self.absent(text), target, value=self.table[key].default)

    def absent(self, text: str = "") -> str:
        """The remark on a default that counts because the file lacks the key."""
        return f"not in the file: the default of {self.program}{f'; {text}' if text else ''}"

    def chosen(self, key: str) -> Any:
        """Our value for a word, by the row's `choices`; None where there is none, which is reported."""
        row, word = self.table[key], self.get(key)
        if word is None:
            return None
        match = row.choices.get(str(word).lower(), ABSENT)
        if match is ABSENT:
            near = difflib.get_close_matches(str(word).lower(), row.choices, n=1)
            hint = f"Did you mean {near[0]}?" if near else ""
            words = ", ".join(row.choices)
            self._problem(key, f"{brief(repr(word))} is not valid: enter one of: {words}.", hint)
            return None
        if isinstance(match, Rule):
            self.record(key, match.status, match.text, match.target, value=word)
            return None
        return match

    def convert(self) -> None:
        """Convert every key that has a row of its own, and report the unknown ones."""
        for key in self.content:
            row = self.table.get(key) or self.table.get(_wildcard(key, self.table))
            if row is None:
                self._unknown(key)
            elif not row.together:
                self._convert(key, row)
        for key, row in self.table.items():
            if row.default is not ABSENT and not row.together and not self.has(key) and self._concerns(row):
                self._convert(key, row)

    def _concerns(self, row: Key) -> bool:
        return not row.families or self.family in row.families

    def _convert(self, key: str, row: Key) -> None:
        if key in self.content and not self.has(key):
            self.conversion.unset.append(f"{self.prefix}{key}")
            if row.default is ABSENT:
                return
        if not self._concerns(row):
            self.record(key, "no effect", f"for {' and '.join(map(title, row.families))} only")
        elif row.status == "no effect":
            self.record(key, "no effect", row.text)
        elif row.status == "not supported":
            value = self.content[key]
            is_same = any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in row.same)
            if is_same or (_flag(value) is False and False in row.same):
                self.record(key, "honoured", AS_HERE)
            else:
                self.fail(key, row.text)
        else:
            value = self.chosen(key) if row.choices else self.get(key)
            if value is not None:
                self.use(key, row.target, value, row.text, row.status)

    def _unknown(self, key: str) -> None:
        """A key that the table does not have: the program ignores it."""
        near = nearest(key, self.table)
        meant = f"; did you mean {self.prefix}{near}?" if near else ""
        self.record(key, "no effect", f"no key of {self.program} that is known here{meant}")

    def rest(self) -> None:
        """Report each key of the file that no function has recorded."""
        for key in self.content:
            if key not in self._recorded and f"{self.prefix}{key}" not in self.conversion.unset:
                if self.has(key):
                    self.record(key, "no effect", "the other settings leave it without effect")
                else:
                    self.conversion.unset.append(f"{self.prefix}{key}")


def title(family: str) -> str:
    """The name of a family in a report."""
    return {"sd15": "Stable Diffusion 1.5", "sdxl": "SDXL", "flux": "FLUX"}.get(family, family)


def nearest(key: str, table: Mapping[str, Key]) -> str:
    """The key of a table that was probably meant; "" where there is none."""
    near = difflib.get_close_matches(key, table, n=1, cutoff=0.75)
    if near:
        return near[0]
    by_last = {name.rpartition(".")[2]: name for name in table}
    last = difflib.get_close_matches(key.rpartition(".")[2], by_last, n=1, cutoff=0.8)
    return by_last[last[0]] if last else ""


def _wildcard(key: str, table: Mapping[str, Key]) -> str:
    """The name of the row that stands for all keys of a table in which `key` is."""
    parts = key.split(".")
    names = (".".join((*parts[:count], "*")) for count in range(len(parts) - 1, 0, -1))
    return next((name for name in names if name in table), "")


def flat(
    content: Mapping[str, Any], table: Mapping[str, Key], conversion: Conversion, prefix: str = ""
) -> dict[str, Any]:
    """The keys of a file with dots, down to those that have a row or are unknown. A value that is not the table that is
    expected is a problem.

    Args:
        prefix: in front of each key in messages.
    """
    return dict(_flat(content, table, conversion, "", prefix))


def _flat(
    content: Mapping[str, Any], table: Mapping[str, Key], conversion: Conversion, within: str, prefix: str
) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        key = f"{within}{name}"
        holds = any(other.startswith(f"{key}.") for other in table)
        if isinstance(value, dict) and (holds or _wildcard(f"{key}.x", table)):
            yield from _flat(value, table, conversion, f"{key}.", prefix)
        elif holds and key not in table and value not in (None, "", []):
            message = f"{brief(repr(value))} is not valid: enter a table."
            conversion.problems.append(Problem("", f"{prefix}{key}", message))
        else:
            yield key, value
