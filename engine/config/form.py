"""Facts about each setting for a form, read from the model of the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import ValidationError

from engine.config.change import CHANGES, read_change
from engine.config.fields import Table
from engine.config.literals import parse_value
from engine.config.problems import value_problems
from engine.config.schema import RunConfig
from engine.errors import UsageError

Kind = Literal["flag", "choice", "integer", "number", "numbers", "text", "list", "size"]
"""flag: on or off. choice: one of `choices`. numbers: one, or several separated by commas. list: texts, one a line.
size: a side in px, or width and height."""
UNSET = "unset"
PROMPT_FILES = (".txt", ".toml", ".json")


@dataclass(frozen=True)
class FieldFacts:
    """One setting."""

    key: str
    """Dotted: "training.unet_lr"."""
    title: str
    help: str
    kind: Kind
    unit: str = ""
    limits: str = ""
    """The range in words: "from 1 to 1024", "0 or more"; empty where there is none."""
    choices: tuple[Any, ...] = ()
    """In order; with None first where it may be unset."""
    words: tuple[str, ...] = ()
    """What may stand for a number: "auto"."""
    optional: bool = False
    """None is allowed and has a meaning of its own, described in the help."""
    may_be_file: bool = False
    """A list that may also be the path of a file: a single line with the extension of one."""
    advanced: bool = False
    vram: str = ""
    """What raising it, or switching it on, does to VRAM; empty: nothing notable."""
    default: Any = None

    @property
    def table(self) -> str:
        """Its table."""
        return self.key.partition(".")[0]

    @property
    def name(self) -> str:
        """The key without its table."""
        return self.key.partition(".")[2]

    def fits(self, words: str) -> bool:
        """Whether every word of a search is in its title, key or help, or is the title's initials: lr."""
        initials = "".join(word[0] for word in self.title.split())
        text = f"{self.title} {self.key} {self.help} {initials}".lower()
        return all(word in text for word in words.lower().split())

    def rank(self, words: str) -> tuple[int, ...] | None:
        """Sort key of a search result: the exact key or title first, then words of the title, of the key, of the help,
        each better at the beginning; among equals a basic setting, then the shorter title. None if it does not
        match."""
        search = " ".join(words.lower().split())
        if not search or not self.fits(search):
            return None
        title, name = " ".join(_words(self.title)), " ".join(_words(self.name))
        places = (
            search in (self.key, self.name, self.title.lower()) or " ".join(_words(search)) in (title, name),
            search == "".join(word[0] for word in title.split()),  # lr
            title.startswith(f"{search} "),
            title.startswith(search),
            set(search.split()) <= set(title.split()),
            all(any(word.startswith(part) for word in title.split()) for part in search.split()),
            set(search.split()) <= set(name.split()),
            all(any(word.startswith(part) for word in name.split()) for part in search.split()),
            all(part in f"{title} {self.key}" for part in search.split()),
        )
        place = next((place for place, holds in enumerate(places) if holds), len(places))
        return (place, self.advanced, len(title), len(name))


def _words(text: str) -> list[str]:
    """The words of a title or key, in lower case."""
    return re.findall(r"[\w']+", text.lower().replace("_", " "))


@dataclass(frozen=True)
class TableFacts:
    """One table and its settings, in the order of the model."""

    name: str
    title: str
    help: str
    fields: tuple[FieldFacts, ...]


@cache
def form() -> tuple[TableFacts, ...]:
    """All tables with all settings."""
    schema = RunConfig.model_json_schema()
    tables = []
    for name, entry in schema["properties"].items():
        members = schema["$defs"][entry["$ref"].rpartition("/")[2]]["properties"]
        facts = tuple(_facts(f"{name}.{key}", member) for key, member in members.items())
        tables.append(TableFacts(name, entry["title"], entry["description"], facts))
    return tuple(tables)


@cache
def fields() -> Mapping[str, FieldFacts]:
    """All settings by dotted key, in the order of the model."""
    return {facts.key: facts for table in form() for facts in table.fields}


def facts_of(table: type[Table]) -> tuple[FieldFacts, ...]:
    """The settings of a table outside the configuration, by their bare names."""
    return tuple(_facts(name, entry) for name, entry in table.model_json_schema()["properties"].items())


def _facts(key: str, entry: Mapping[str, Any]) -> FieldFacts:
    forms = entry.get("anyOf", [entry])
    optional = any(variant.get("type") == "null" for variant in forms)
    forms = [variant for variant in forms if variant.get("type") != "null"]
    kind, choices = _kind(forms)
    words = tuple(form["const"] for form in forms if "const" in form and kind == "integer")
    if kind == "flag" and optional:
        kind, choices = "choice", (True, False)
    return FieldFacts(
        key,
        entry["title"],
        entry.get("description", ""),
        kind,
        unit=entry.get("unit", ""),
        limits=_limits(forms[0]) + "".join(f", or {word}" for word in words),
        words=words,
        choices=(None, *choices) if choices and optional else choices,
        optional=optional,
        may_be_file=kind == "list" and len(forms) > 1,
        advanced=entry.get("advanced", False),
        vram=entry.get("vram", ""),
        default=entry.get("default"),
    )


def _kind(forms: list[Mapping[str, Any]]) -> tuple[Kind, tuple[Any, ...]]:
    first, types = forms[0], {variant.get("type") for variant in forms}
    if "enum" in first or "const" in first:
        return "choice", tuple(first.get("enum", [first.get("const")]))
    if "array" in types:
        return ("size" if "integer" in types else "numbers" if "number" in types else "list"), ()
    kinds: dict[Any, Kind] = {"boolean": "flag", "integer": "integer", "number": "number"}
    return kinds.get(first["type"], "text"), ()


def _limits(entry: Mapping[str, Any]) -> str:
    low, above = entry.get("minimum"), entry.get("exclusiveMinimum")
    high, below = entry.get("maximum"), entry.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"from {low} to {high}"
    if low is not None and below is None:
        return f"{low} or more"
    ends = [f"from {low}" if low is not None else f"more than {above}" if above is not None else "",
            f"up to {high}" if high is not None else f"below {below}" if below is not None else ""]  # fmt: skip
    return ", ".join(filter(None, ends))


def value_text(facts: FieldFacts, value: Any) -> str:
    """A value as the form shows it, in one line."""
    if value is None:
        return UNSET
    if isinstance(value, bool):
        return "yes" if value else "no"
    if facts.kind == "list":
        lines = as_lines(value)
        return " | ".join(map(_change_text, lines) if facts.key == CHANGES else lines) or "none"
    return input_text(facts, value)


def _change_text(line: str) -> str:
    """A change during the training as words; as it is written where that is wrong."""
    try:
        change = read_change(line)
    except ValueError:
        return line
    return f"from step {change.step + 1}: {fields()[change.key].title} {value_text(fields()[change.key], change.value)}"


def unit(facts: FieldFacts, value: Any) -> str:
    """The unit behind a value: "1 batch", "2 batches", "0.05 of all steps"; empty for an unset one."""
    if value is None:
        return ""
    if facts.unit == "steps" and isinstance(value, float) and 0 < value < 1:
        return "of all steps"
    return {"batches": "batch", "px": "px"}.get(facts.unit, facts.unit.removesuffix("s")) if value == 1 else facts.unit


def input_text(facts: FieldFacts, value: Any) -> str:
    """A value as text for `parse`; empty for an unset one."""
    if value is None:
        return ""
    if facts.kind == "list":
        return "\n".join(as_lines(value))
    if isinstance(value, list):
        return ",".join(map(_number_text, value))
    return _number_text(value)


def _number_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.12g}".replace("e-0", "e-").replace("e+0", "e+").replace("e+", "e")
    return str(value)


def as_lines(value: str | Sequence[str | float]) -> list[str]:
    """The entries of a list; a file's path is a single one."""
    if isinstance(value, str):
        return value.splitlines()
    return [entry if isinstance(entry, str) else f"{entry:g}" for entry in value]


def parse(facts: FieldFacts, text: str) -> Any:
    """The value that a person typed for this setting, for the configuration.

    Raises:
        UsageError: an invalid value; with what is given and what is allowed.
    """
    value = _read(facts, text)
    check(facts, value)
    return value


def check(facts: FieldFacts, value: Any) -> None:
    """Refuse a value that this setting cannot have, independent of others.

    Raises:
        UsageError: with what is given and what is allowed.
    """
    if value in facts.words:
        return
    if facts.kind in ("integer", "number") and (isinstance(value, bool | str) or not _allowed(facts, value)):
        noun = "a whole number" if facts.kind == "integer" else "a number"
        raise UsageError(
            f'"{value}" is not valid: enter {noun}{", " if facts.limits else ""}{facts.limits}.',
            code="value-not-possible",
        )
    for sentence in _problems(facts, value):
        raise UsageError(sentence, code="value-not-possible")


def _allowed(facts: FieldFacts, value: Any) -> bool:
    return not _problems(facts, value)


def _problems(facts: FieldFacts, value: Any) -> list[str]:
    """The problems of this key, without those of its table, which depend on other settings."""
    try:
        RunConfig.model_validate({facts.table: {facts.name: value}})
    except ValidationError as error:
        return [problem.message for problem in value_problems(error, lambda *_: "") if problem.key == facts.key]
    return []


def _read(facts: FieldFacts, text: str) -> Any:
    stripped = text.strip()
    if facts.kind == "list":
        lines = _entries(facts, text)
        is_file = facts.may_be_file and len(lines) == 1 and stripped.lower().endswith(PROMPT_FILES)
        return stripped if is_file else lines
    if facts.optional and (stripped.lower() in ("", UNSET) or (facts.kind != "text" and stripped.lower() == "none")):
        return None
    if facts.kind == "text":
        return text
    if facts.kind == "size":
        return _size(stripped)
    if facts.kind == "numbers" and "," in stripped:
        return [parse_value(number) for number in stripped.strip("[]").split(",")]
    if facts.kind in ("choice", "flag"):
        choices = {value_text(facts, choice).lower(): choice for choice in facts.choices or (True, False)}
        return choices.get(stripped.lower(), stripped)
    if stripped.lower() in facts.words:
        return stripped.lower()
    if not stripped:
        raise UsageError("A number is needed here.", code="value-not-possible")
    return parse_value(stripped)


def _entries(facts: FieldFacts, text: str) -> list[str]:
    """The entries of a list, one on each line, or as TOML writes it, as on the command line: ["a", "b"]."""
    lines = [line for line in text.split("\n") if line.strip()]
    stripped = text.strip()
    listed = parse_value(stripped) if stripped.startswith("[") else None
    if listed is None and not facts.may_be_file:  # a prompt in quotes is a prompt in quotes
        listed = parse_value(f"[{', '.join(line.strip().rstrip(',') for line in lines)}]")
    if isinstance(listed, list) and all(isinstance(entry, str) for entry in listed):
        return listed
    return lines


def _size(text: str) -> int | list[int]:
    """ "512", "512,768" or "512 x 768"."""
    sides = [side.strip() for side in text.lower().replace("x", ",").replace("×", ",").split(",")]
    if not all(side.isdecimal() for side in sides):
        raise UsageError(
            f'"{text}" is not valid: enter a side in px, or width and height: 512,768.', code="value-not-possible"
        )
    numbers = [int(side) for side in sides]
    return numbers[0] if len(numbers) == 1 else numbers
