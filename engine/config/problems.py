"""Problems of a configuration: all at once, each with file, line, key and the nearest valid key."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from engine.config.moved import MOVED, present_key
from engine.config.schema import RunConfig
from engine.errors import UsageError

_ZERO = re.compile(r"(?:^|[.;] )(0 [a-z][^.;]*)")
"""What 0 does, in the help of a setting."""


def keys() -> dict[str, list[str]]:
    """All keys by table, in the order of the schema."""
    model = RunConfig.model_fields
    return {
        table: list(field.annotation.model_fields) for table, field in model.items() if field.annotation is not None
    }


@dataclass(frozen=True)
class Problem:
    """One problem."""

    where: str
    """The file and line, or the option on the command line."""
    key: str
    """Dotted key, "" for a problem without one."""
    message: str
    """What is given, what is allowed."""
    hint: str = ""

    def __str__(self) -> str:
        subject = f"{self.key}: " if self.key else ""
        return f"{self.where}: {subject}{self.message}{' ' + self.hint if self.hint else ''}"


class ConfigError(UsageError):
    """A configuration with one or more problems."""

    title = "Configuration"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems), code="config-invalid")


def unknown_key(where: str, table: str | None, key: str) -> Problem:
    """The problem of a key, or of a table when `table` is None, that does not exist."""
    tables = keys()
    if table is None:
        near = _nearest(key, tables)
        home = [name for name, members in tables.items() if key in members]
        if home:
            return Problem(where, key, "a key outside its table.", f"It belongs under [{home[0]}].")
        hint = f"Did you mean [{near}]?" if near else f"Tables: {', '.join(tables)}."
        return Problem(where, key, "unknown table or key.", hint)
    dotted = f"{table}.{key}"
    home = [name for name, members in tables.items() if key in members]
    if home:
        return Problem(where, dotted, "unknown key.", f"It belongs under [{home[0]}]: {home[0]}.{key}.")
    former = [name.partition(".")[2] for name in MOVED if name.startswith(f"{table}.")]
    if near := _nearest(key, [*tables[table], *former]):
        return Problem(where, dotted, "unknown key.", f"Did you mean {present_key(f'{table}.{near}')}?")
    if inside := [f"{table}.{name}" for name in tables[table] if key in name.split("_")]:
        return Problem(where, dotted, "unknown key.", f"Did you mean {' or '.join(inside[:3])}?")
    if near := _nearest(key, [name for members in tables.values() for name in members]):
        place = next(name for name, members in tables.items() if near in members)
        return Problem(where, dotted, "unknown key.", f"Did you mean {place}.{near}?")
    return Problem(where, dotted, "unknown key.", "`lorasmith schema` lists all keys.")


def value_problems(
    error: ValidationError, where: Callable[[str, str], str | None], fallback: str = ""
) -> Iterator[Problem]:
    """The problems in a pydantic error.

    Args:
        where: file and line, or the option, that set a key of a table; None for one that is not set.
        fallback: the place of a problem without such a key.
    """
    seen: set[tuple[str, str]] = set()  # a union reports each of its members
    for detail in error.errors():
        table, key = ([str(part) for part in detail["loc"][:2]] + ["", ""])[:2]
        if key and (table, key) in seen:
            continue
        seen.add((table, key))
        dotted = ".".join(part for part in (table, key) if part)
        message = (
            sentence(detail) if detail["input"] is not None or not key else _not_unset(table, key, sentence(detail))
        )
        about = [key] if key else re.findall(r"\w+", message)  # a check of the table names the contradicting keys
        places = [place for name in about if name in keys().get(table, ()) and (place := where(table, name))]
        yield Problem(" and ".join(dict.fromkeys(places)) or fallback, dotted, message)


def sentence(detail: ErrorDetails) -> str:
    """A sentence with what is not valid and what to enter, from one entry of a pydantic error."""
    value = detail["input"]
    message = (
        detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("Input should have ")
    )
    message = message.replace("String should match pattern", "text of the form").replace(
        "a valid list", 'a list: ["...", "..."]'
    )
    message = re.sub(r", unable to parse string as an? \w+", "", message).replace("a valid integer", "a whole number")
    message = re.sub(r"^(greater|less) than", r"a number \1 than", message.replace("a valid ", "a "))
    if isinstance(value, dict) or (detail["type"] == "value_error" and not isinstance(value, str | int | float | list)):
        return f"{message}."
    return f"{value!r} is not valid: enter {message}."


def _not_unset(table: str, key: str, message: str) -> str:
    """The sentence about a setting without a value that needs one; with what 0 means, where its help explains that."""
    model = RunConfig.model_fields[table].annotation
    field = model.model_fields.get(key) if model is not None else None
    if field is None:
        return message
    zero = _ZERO.search(field.description or "")
    empty = " [] is none at all." if isinstance(field.get_default(call_default_factory=True), list) else ""
    enter = message.removeprefix("None is not valid: ")
    return f"cannot be unset: {enter}{empty}{f' {zero[1]}.' if zero else ''}"


def limit_problem(
    path: str, kind: str, error: ValueError, lines: Callable[[], Mapping[tuple[str | int, ...], int]]
) -> Problem:
    """The problem of a text that is invalid TOML or JSON, or beyond the limits of `engine.reading`, whose errors have
    the key.

    Args:
        lines: the line of each key; called only for a valid text.
    """
    place, _, rest = str(error).partition(": ")
    if isinstance(error, tomllib.TOMLDecodeError | json.JSONDecodeError) or not rest:
        hint = "A comma too many, or an incomplete copy?" if kind == "JSON" else ""
        return Problem(path, "", f"not valid {kind}: {error}.", hint)
    keyed = {".".join(str(part) for part in key if isinstance(part, str)): (line, key) for key, line in lines().items()}
    line, key = keyed.get(place, (0, ()))
    alike = sum(isinstance(part, int) for part in key)  # inside a list the place is ambiguous
    return Problem(f"{path}, line {line}" if line and not alike else path, place, f"{rest}.", "")


def _nearest(word: str, words: Any) -> str | None:
    matches = difflib.get_close_matches(word.lower(), list(words), n=1, cutoff=0.6)
    return matches[0] if matches else None
