"""Reading a configuration: a preset or file, then `--set` overrides, then one check of everything."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config.presets import find_preset
from engine.config.problems import ConfigError, Problem, keys, unknown_key, value_problems
from engine.config.schema import RunConfig
from engine.errors import UsageError
from engine.reading import SAVE_AS_UTF8, read_script

_TABLE_LINE = re.compile(r"^\s*\[\s*([\w-]+)\s*\]")
_KEY_LINE = re.compile(r"^\s*([\w-]+|\"[^\"]*\")\s*=")


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
        places[table, key] = places[table, ""] = option
    fallback = str(source) if source is not None else "--set"
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        known = list(value_problems(error, lambda t, k: places.get((t, k), places.get((t, ""), fallback))))
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
    from engine.config.kohya.convert import conversion_of
    from engine.config.kohya.dataset_file import read_text

    path = find_preset(source)
    found = conversion_of(path, read_text(path), exact=exact)
    return found.notes() if found is not None else []


def _read_file(
    path: Path,
    values: dict[str, dict[str, Any]],
    places: dict[tuple[str, str], str],
    problems: list[Problem],
    *,
    exact: bool = False,
) -> None:
    from engine.config.kohya.convert import conversion_of

    try:
        text = read_script(path)
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError):
            raise UsageError(f"The preset {path} cannot be read: {error}.", "Check its permissions.") from None
        raise UsageError(f"The preset {path} cannot be read: it is not UTF-8.", SAVE_AS_UTF8) from None
    kohyas = conversion_of(path, text, exact=exact)
    if kohyas is not None:
        problems += kohyas.problems
        for table, members in kohyas.values.items():
            values.setdefault(table, {}).update(members)
            places[table, ""] = str(path)
        return
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        hint = "In double quotes a backslash starts an escape: write paths in single quotes." if "\\" in text else ""
        raise ConfigError([Problem(str(path), "", f"not valid TOML: {error}.", hint)]) from None
    lines = _key_lines(text)
    known = keys()
    for table, members in content.items():
        where = f"{path}, line {lines.get((table, ''), 1)}"
        if table not in known or not isinstance(members, dict):
            problems.append(unknown_key(where, None, table))
            continue
        places[table, ""] = where
        for key, value in members.items():
            where = f"{path}, line {lines.get((table, key), lines.get((table, ''), 1))}"
            if key not in known[table]:
                problems.append(unknown_key(where, table, key))
                continue
            values.setdefault(table, {})[key] = value
            places[table, key] = where


def _key_lines(text: str) -> dict[tuple[str, str], int]:
    """Line number of each table and key, as far as lines tell; multi-line strings may hide one."""
    lines: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _TABLE_LINE.match(line):
            table = match[1]
            lines.setdefault((table, ""), number)
        elif match := _KEY_LINE.match(line):
            key = match[1].strip('"')
            lines.setdefault((table, key) if table else (key, ""), number)
    return lines


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
        places[table, key] = places[table, ""] = where


def parse_value(written: str) -> Any:
    """A value as TOML reads it; what is not TOML is taken as text. "none" leaves a key unset."""
    if written.strip().lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        return written


def written(value: Any) -> str:
    """A value as `--set` takes it: TOML, or bare text where that means the same."""
    if value is None:
        return "none"
    if isinstance(value, str) and parse_value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # which JSON allows and TOML does not
