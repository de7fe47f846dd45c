"""Reading a configuration: a preset or file, then `--set` overrides, then one check of everything."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config.lines import toml_lines
from engine.config.presets import find_preset
from engine.config.problems import ConfigError, Problem, keys, limit_problem, unknown_key, value_problems
from engine.config.schema import RunConfig
from engine.errors import UsageError
from engine.reading import SAVE_AS_UTF8, parse_toml, read_script
from engine.text import printable


def load_config(
    source: str | Path | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, tuple[str, Any]] | None = None,
) -> RunConfig:
    """The configuration of a run.

    Args:
        source: a preset's name or a TOML file; None for the defaults.
        overrides: `table.key=value` strings, the value in TOML or as bare text; later ones win.
        options: what was typed as an option of its own: dotted key -> (name of the option, value); wins over all.

    Raises:
        ConfigError: with every problem of the file and of the overrides.
        UsageError: no such preset; the file cannot be read.
    """
    values: dict[str, dict[str, Any]] = {}
    places: dict[tuple[str, str], str] = {}
    problems: list[Problem] = []
    if source is not None:
        _read_file(find_preset(source), values, places, problems, exact=_is_exact(overrides))
    for text in overrides:
        _read_override(text, values, places, problems)
    for dotted, (option, value) in (options or {}).items():
        table, _, key = dotted.partition(".")
        values.setdefault(table, {})[key] = value
        places[table, key] = option
    fallback = str(source) if source is not None else "--set"
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        known = list(value_problems(error, lambda table, key: places.get((table, key)), fallback))
        raise ConfigError(problems + known) from None
    if problems:
        raise ConfigError(problems)
    return config


def _is_exact(overrides: Sequence[str]) -> bool:
    """Whether the overrides ask for Kohya's numbers, so that a file of Kohya's is taken at its word."""
    typed: dict[str, dict[str, Any]] = {}
    for text in overrides:
        _read_override(text, typed, {}, [])
    return typed.get("training", {}).get("kohya_exact") is True


def kohya_notes(source: str | Path, *, exact: bool = False) -> list[str]:
    """What a file of Kohya's says that is not simply honoured, one sentence a key; empty for a preset.

    Args:
        exact: as with `training.kohya_exact`.

    Raises:
        UsageError: no such file, or it cannot be read.
    """
    from engine.config.kohya.convert import conversion_of, read_as_preset

    path = find_preset(source)
    text = _text_of(path)
    found = conversion_of(path, text, exact=exact)
    if found is not None:
        return found.notes()
    note = read_as_preset(path, text)
    return [note] if note else []


def _text_of(path: Path) -> str:
    try:
        return read_script(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"The preset {printable(path)} cannot be read: {reason}.", "Check its permissions.") from None
    except UnicodeDecodeError:
        message = f"The preset {printable(path)} cannot be read: it is not UTF-8."
        raise UsageError(message, SAVE_AS_UTF8) from None


def _read_file(
    path: Path,
    values: dict[str, dict[str, Any]],
    places: dict[tuple[str, str], str],
    problems: list[Problem],
    *,
    exact: bool = False,
) -> None:
    from engine.config.kohya.convert import conversion_of

    text = _text_of(path)
    kohyas = conversion_of(path, text, exact=exact)
    if kohyas is not None:
        problems += kohyas.problems
        for table, members in kohyas.values.items():
            values.setdefault(table, {}).update(members)
            named = {key: kohyas.places.get(f"{table}.{key}") for key in members}
            places |= {(table, key): place for key, place in named.items() if place}
        return
    try:
        content = parse_toml(text)
    except ValueError as error:
        problem = limit_problem(str(path), "TOML", error, lambda: toml_lines(text))
        hint = "In double quotes a backslash starts an escape: write paths in single quotes." if "\\" in text else ""
        raise ConfigError([problem if problem.key else replace(problem, hint=hint)]) from None
    lines = toml_lines(text)
    known = keys()
    for table, members in content.items():
        where = f"{path}, line {lines.get((table,), 1)}"
        if table not in known or not isinstance(members, dict):
            problems.append(unknown_key(where, None, table))
            continue
        for key, value in members.items():
            where = f"{path}, line {lines.get((table, key), 1)}"
            if key not in known[table]:
                problems.append(unknown_key(where, table, key))
                continue
            values.setdefault(table, {})[key] = value
            places[table, key] = where


def _read_override(
    text: str, values: dict[str, dict[str, Any]], places: dict[tuple[str, str], str], problems: list[Problem]
) -> None:
    dotted, equals, written = text.partition("=")
    table, dot, key = dotted.strip().partition(".")
    where = f"--set {text}"
    if not equals:
        problems.append(Problem(where, "", "no value.", "Write --set table.key=value."))
    elif not dot or table not in keys():
        problems.append(unknown_key(where, None, table))
    elif key not in keys()[table]:
        problems.append(unknown_key(where, table, key))
    else:
        values.setdefault(table, {})[key] = parse_value(written)
        places[table, key] = where


def parse_value(written: str) -> Any:
    """A value as TOML reads it; what is not TOML is taken as text. "none" leaves a key unset."""
    if written.strip().lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {written}")["value"]
    except (ValueError, RecursionError):
        return written


def written(value: Any) -> str:
    """A value as `--set` takes it: TOML, or bare text where that means the same."""
    if value is None:
        return "none"
    if isinstance(value, str) and parse_value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # which JSON allows and TOML does not
