"""The fields of an event: each is one key of its line, with meaning, unit and a parser of its value.

A log may come from another machine or a stranger. An invalid value counts as missing. Values are parsed on access: a
viewer uses few of the values of a long log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from engine.runs.values import count, number, numbers, text

MOST_DIGITS = 9
"""Of a timestep in a key."""
_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Kind:
    """The type of a field's values."""

    title: str
    """For docs/events.md."""
    read: Callable[[Any], Any]
    """Parser of a value; None where it is not of this type."""
    missing: Any = None
    """The value for readers where it is missing."""


def _table(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _texts(value: Any) -> list[str] | None:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else None


def _proposals(value: Any) -> list[dict[str, str]] | None:
    if not isinstance(value, list):
        return None
    older = {"image": "picture"}
    keys = ("image", "before", "after")
    return [
        {key: text(item.get(key, item.get(older.get(key, key)))) or "" for key in keys}
        for item in value
        if isinstance(item, dict)
    ]


COUNT = Kind("whole number", count)
COUNT_OR_NULL = Kind("whole number, or null", count)
NUMBER = Kind("number, or null", number)
NUMBERS = Kind("object of numbers", numbers, _EMPTY)
TEXT = Kind("text", text, "")
TEXT_OR_NULL = Kind("text, or null", text)
TEXTS = Kind("list of texts", _texts, ())
TABLE = Kind("object", _table, _EMPTY)
PROPOSALS = Kind("list of objects with the texts `image`, `before`, `after`", _proposals, ())
VALUE = Kind("any value", lambda value: value)


class Field:
    """A key of an event's line, and the attribute that reads it."""

    def __init__(self, kind: Kind, meaning: str, unit: str, when: str) -> None:
        self.kind, self.meaning, self.unit, self.when = kind, meaning, unit, when
        self.name = ""
        """The attribute."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, event: Any, owner: type) -> Any:
        return self if event is None else self.value(event.data)

    def __set__(self, event: object, value: object) -> None:
        raise AttributeError(f"{self.name}: an event cannot change")

    @property
    def key(self) -> str:
        """Its name in docs/events.md."""
        return self.name

    def value(self, data: Mapping[str, Any]) -> Any:
        """The value of this field in `data`."""
        value = data.get(self.name)
        if value is not None:
            value = self.kind.read(value)
        return self.kind.missing if value is None else value

    def takes(self, key: str) -> bool:
        """Whether `key` belongs to this field."""
        return key == self.name

    def put(self, data: dict[str, Any], value: Any) -> None:
        """Write `value` into the line."""
        data[self.name] = value


class TimestepField(Field):
    """A number by timestep: a key for each, as `loss_t200`."""

    def __init__(self, prefix: str, meaning: str, when: str) -> None:
        super().__init__(NUMBER, meaning, "", when)
        self.prefix = prefix

    @property
    def key(self) -> str:
        """Its name in docs/events.md."""
        return f"{self.prefix}<timestep>"

    def value(self, data: Mapping[str, Any]) -> dict[int, float]:
        """{200: loss, ...}"""
        values = {int(key.removeprefix(self.prefix)): number(data[key]) for key in data if self.takes(key)}
        return {timestep: value for timestep, value in values.items() if value is not None}

    def takes(self, key: str) -> bool:
        """Whether `key` is one of them."""
        timestep = key.removeprefix(self.prefix)
        return timestep != key and len(timestep) <= MOST_DIGITS and timestep.isascii() and timestep.isdecimal()

    def put(self, data: dict[str, Any], value: Mapping[int, float]) -> None:
        """Write a key for each timestep."""
        data.update({f"{self.prefix}{timestep}": number for timestep, number in value.items()})


def field(kind: Kind, meaning: str, unit: str = "", *, default: Any = None, when: str = "") -> Any:
    """A field of an event; typed as Any, because it describes its values.

    Args:
        meaning: a sentence.
        default: marks an optional field. Only type checkers use it: a field that is not given is not in the line.
        when: where the field is present; empty: always.
    """
    return Field(kind, meaning, unit, when)


def timestep_field(prefix: str, meaning: str, *, default: Any = None, when: str = "") -> Any:
    """Numbers by timestep, each with a key of its own."""
    return TimestepField(prefix, meaning, when)
