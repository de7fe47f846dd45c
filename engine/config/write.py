"""Writes a configuration as TOML, and keeps a person's own comments."""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

import tomlkit
from tomlkit.items import Table as TomlTable

from engine.config.moved import ADDED, MOVED, former_tables, split
from engine.config.schema import RunConfig


def dump_toml(config: RunConfig, heading: str = "") -> str:
    """The full configuration; unset keys are left out, since TOML has no null."""
    document = tomlkit.document()
    for line in heading.splitlines():
        document.add(tomlkit.comment(line))
    for name, values in config.model_dump().items():
        table = tomlkit.table()
        for key, value in values.items():
            if value is not None:
                table.add(key, value)
        document.add(name, table)
    return tomlkit.dumps(document)


def update_toml(text: str, config: RunConfig) -> str:
    """`text` with the values of `config`: keys whose value differs from `text` and the defaults are set, the rest of
    the document, with its comments, stays as it is. A former name becomes the present one, with the comment on its
    line."""
    document = tomlkit.parse(text)
    _move_settings(document)
    defaults = RunConfig().model_dump()
    for name, values in config.model_dump().items():
        before = cast("dict[str, Any]", document.get(name, {}))
        for key, value in values.items():
            if value == before.get(key, defaults[name][key]):
                continue
            if name not in document:
                document.add(name, tomlkit.table())
            table = cast(TomlTable, document[name])
            if value is None:
                table.pop(key, None)
            else:
                table[key] = value
    return tomlkit.dumps(document)


def _move_settings(document: tomlkit.TOMLDocument) -> None:
    """Move settings with former names into their present tables."""
    for former in MOVED:
        old, _, key = former.partition(".")
        if key not in cast("dict[str, Any]", document.get(old, {})):
            continue
        table, name = split(former)
        if table not in document:
            document.add(table, tomlkit.table())
        cast(TomlTable, document[table]).append(name, cast(TomlTable, document[old]).pop(key))


def digest(config: RunConfig) -> str:
    """Sixteen hex digits that change with any setting that affects the computation from the start (not with its folder,
    later changes, measuring, or loggers)."""
    values = former_tables(config.model_dump())
    values.pop("logging")
    values["training"].pop("changes")
    values["training"].pop("max_check_share")
    defaults = RunConfig().model_dump()
    for table, keys in ADDED.items():
        for key in keys:
            if values[table][key] == defaults[table][key]:
                del values[table][key]
    values = {table: members for table, members in values.items() if members}  # earlier versions lacked the others
    values["saving"].pop("output_dir")
    values["memory"].pop("cache_dir")
    canonical = json.dumps(values, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def schema_json() -> str:
    """The JSON Schema of a preset, for editors."""
    return json.dumps(RunConfig.model_json_schema(), indent=1, ensure_ascii=False) + "\n"
