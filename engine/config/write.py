"""Writing a configuration as TOML, with the help sentences as comments, and without losing a person's own comments."""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

import tomlkit
from tomlkit.items import Table as TomlTable

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
    """`text` with the values of `config`: keys that differ from what `text` and the defaults say are set, the rest of
    the document, comments included, stays as it is."""
    document = tomlkit.parse(text)
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


def digest(config: RunConfig) -> str:
    """Sixteen hex digits that change with any value that decides what a run computes (not with its folder)."""
    values = config.model_dump()
    values["saving"].pop("output_dir")
    values["memory"].pop("cache_dir")
    canonical = json.dumps(values, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def schema_json() -> str:
    """The JSON Schema of a preset, for editors."""
    return json.dumps(RunConfig.model_json_schema(), indent=1, ensure_ascii=False) + "\n"
