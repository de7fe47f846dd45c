"""Reads a configuration: a preset or file, then `--set` overrides, then one check of everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config.change import without_changes_of
from engine.config.lines import toml_lines
from engine.config.literals import parse_value
from engine.config.local_paths import ESCAPES_HINT
from engine.config.moved import MOVED, both_names, present_key, split
from engine.config.presets import find_preset
from engine.config.problems import ConfigError, Problem, keys, limit_problem, unknown_key, value_problems
from engine.config.schema import RunConfig
from engine.errors import UsageError
from engine.reading import SAVE_AS_UTF8, parse_toml, read_script
from engine.text import printable

FLAG = "--set"


def load_config(
    source: str | Path | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, tuple[str, Any]] | None = None,
    defaults: Mapping[str, tuple[str, Any]] | None = None,
    *,
    flag: str = FLAG,
) -> RunConfig:
    """The configuration of a run.

    Args:
        source: a preset's name or a TOML file; None for the defaults.
        overrides: `table.key=value` strings, the value in TOML or as bare text; later ones win.
        options: separate command line options: dotted key -> (name of the option, value); with the highest precedence.
        defaults: dotted key -> (file and line, value), with the lowest precedence: what `source` leaves open.
        flag: what the person wrote before each of the overrides.

    Raises:
        ConfigError: with every problem of the file and of the overrides.
        UsageError: no such preset; the file cannot be read.
    """
    read = _Settings()
    for dotted, (where, value) in (defaults or {}).items():
        read.put(dotted, value, where)
    read.begin()
    if source is not None:
        path = find_preset(source)
        _read_text(path, _text_of(path), read, exact=_is_exact(overrides))
    read.begin()
    for text in overrides:
        _read_override(text, read, flag)
    read.begin()
    for dotted, (option, value) in (options or {}).items():
        read.put(dotted, value, option)
    values = read.values
    typed = [present_key(text.partition("=")[0].strip()) for text in overrides] + [*map(present_key, options or {})]
    if typed and values.get("training", {}).get("changes") and "training.changes" not in typed:
        values["training"]["changes"] = without_changes_of(values["training"]["changes"], typed)
    return _validated(read, str(source) if source is not None else flag)


def config_of_text(text: str, title: str) -> RunConfig:
    """The configuration in the text of a file.

    Args:
        title: what messages call the text.

    Raises:
        ConfigError: with every problem.
    """
    read = _Settings()
    _read_text(Path(title), text, read)
    return _validated(read, title)


def _validated(read: _Settings, fallback: str) -> RunConfig:
    """The configuration of what was read.

    Args:
        fallback: the place of a problem that no key has.

    Raises:
        ConfigError: with every problem.
    """
    try:
        config = RunConfig.model_validate(read.values)
    except ValidationError as error:
        invalid = value_problems(error, lambda table, key: read.places.get((table, key)), fallback)
        raise ConfigError(read.problems + [read.as_written(problem) for problem in invalid]) from None
    if read.problems:
        raise ConfigError(read.problems)
    return config


@dataclass
class _Settings:
    """What files and options set, under the present names."""

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    """Table and key to the file and line, or the option."""
    problems: list[Problem] = field(default_factory=list)
    _former: dict[str, str] = field(default_factory=dict)
    """Present key to the former one that was written for it."""
    _here: dict[str, str] = field(default_factory=dict)
    """Present key to the one that the present source has for it."""

    def begin(self) -> None:
        """Another source begins, which may have other names for the same settings."""
        self._here = {}

    def put(self, dotted: str, value: Any, where: str) -> None:
        """Set a key, by its present or its former name."""
        key = present_key(dotted)
        if self._here.setdefault(key, dotted) != dotted:
            former = dotted if dotted in MOVED else self._here[key]
            self.problems.append(Problem(where, dotted, f"{both_names(former)}.", f"Keep {key}."))
            return
        self._former.pop(key, None)
        if dotted in MOVED:
            self._former[key] = dotted
        table, name = split(key)
        self.values.setdefault(table, {})[name] = value
        self.places[table, name] = where

    def as_written(self, problem: Problem) -> Problem:
        """The problem with the name that the person wrote."""
        return replace(problem, key=self._former.get(problem.key, problem.key))


def _is_exact(overrides: Sequence[str]) -> bool:
    """Whether the overrides set kohya_exact, so that a file of Kohya's is taken literally."""
    typed = _Settings()
    for text in overrides:
        _read_override(text, typed)
    return typed.values.get("training", {}).get("kohya_exact") is True


def conversion_notes(source: str | Path, *, exact: bool = False) -> list[str]:
    """Notes on keys of another program's file that are not simply honoured; empty for a preset.

    Args:
        exact: as with `training.kohya_exact`.

    Raises:
        UsageError: no such file, or it cannot be read.
    """
    from engine.config.foreign import conversion_of
    from engine.config.kohya.convert import read_as_preset

    path = find_preset(source)
    text = _text_of(path)
    conversion = conversion_of(path, text, exact=exact)
    if conversion is not None:
        return conversion.notes()
    note = read_as_preset(path, text)
    return [note] if note else []


def _text_of(path: Path) -> str:
    try:
        return read_script(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"The preset {printable(path)} cannot be read: {reason}.",
            "Check its permissions.",
            code="preset-unreadable",
        ) from None
    except UnicodeDecodeError:
        message = f"The preset {printable(path)} cannot be read: it is not UTF-8."
        raise UsageError(message, SAVE_AS_UTF8, code="preset-not-utf8") from None


def _read_text(path: Path, text: str, read: _Settings, *, exact: bool = False) -> None:
    """Read a file's text.

    Args:
        path: names the file in messages, and its kind.
    """
    from engine.config.foreign import conversion_of

    conversion = conversion_of(path, text, exact=exact)
    if conversion is not None:
        read.problems += conversion.problems
        for table, members in conversion.values.items():
            read.values.setdefault(table, {}).update(members)
            origins = {key: conversion.places.get(f"{table}.{key}") for key in members}
            read.places |= {(table, key): place for key, place in origins.items() if place}
        return
    try:
        content = parse_toml(text)
    except ValueError as error:
        problem = limit_problem(str(path), "TOML", error, lambda: toml_lines(text))
        hint = ESCAPES_HINT if "\\" in text else ""
        raise ConfigError([problem if problem.key else replace(problem, hint=hint)]) from None
    lines = toml_lines(text)
    entries, problems = read_tables(content, lambda *key: f"{path}, line {lines.get(key, 1)}")
    read.problems += problems
    for dotted, (where, value) in entries.items():
        read.put(dotted, value, where)


def read_tables(
    content: Mapping[str, Any], where: Callable[..., str]
) -> tuple[dict[str, tuple[str, Any]], list[Problem]]:
    """The settings in the tables of a file, and its keys that do not exist.

    Args:
        where: file and line of a table, or of a table's key.

    Returns:
        Dotted key, by its present or its former name, to (file and line, value); and the problems.
    """
    entries: dict[str, tuple[str, Any]] = {}
    problems: list[Problem] = []
    tables = keys()
    for table, members in content.items():
        if table not in tables or not isinstance(members, dict):
            problems.append(unknown_key(where(table), None, table))
            continue
        for key, value in members.items():
            if key in tables[table] or f"{table}.{key}" in MOVED:
                entries[f"{table}.{key}"] = (where(table, key), value)
            else:
                problems.append(unknown_key(where(table, key), table, key))
    return entries, problems


def _read_override(text: str, read: _Settings, flag: str = FLAG) -> None:
    dotted, equals, written = text.partition("=")
    dotted = dotted.strip()
    table, dot, key = dotted.partition(".")
    where = f"{flag} {text}".lstrip()
    if not equals:
        example = f"{flag} table.key=value".lstrip()
        read.problems.append(Problem(where, "", "no value.", f"Write {example}."))
    elif not dot or table not in keys():
        read.problems.append(unknown_key(where, None, table))
    elif key not in keys()[table] and dotted not in MOVED:
        read.problems.append(unknown_key(where, table, key))
    else:
        read.put(dotted, _value_of(dotted, written), where)


def _value_of(dotted: str, written: str) -> Any:
    """The value that is written after a key; "none" is a choice of some settings."""
    from engine.config.form import fields

    facts = fields().get(present_key(dotted))
    return written.strip() if facts and written.strip() in facts.choices else parse_value(written)
