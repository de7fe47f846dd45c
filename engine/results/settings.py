"""Settings as a report shows them: what differs from a preset, and what differs between runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import RunConfig, load_config
from engine.config.form import FieldFacts, fields, form, unit, value_text
from engine.errors import LoraSmithError
from engine.results.columns import NOTHING
from engine.text import printable

LONGEST = 600
"""Characters of a value."""
_PLACES = frozenset({
    "saving.output_dir", "saving.output_name", "saving.logging_dir", "memory.device", "training.num_processes",
})  # fmt: skip
"""Settings in which two runs always differ, or that change no result: shown last in a comparison."""


@dataclass(frozen=True)
class SettingRow:
    """One setting and its values, as text with the unit."""

    key: str
    """Dotted: "training.unet_lr"."""
    title: str
    help: str
    values: tuple[str, ...]
    """One per run; in `changed_settings` the run's, then the base's."""


@dataclass(frozen=True)
class SettingTable:
    """The settings of one table of the configuration."""

    title: str
    rows: tuple[SettingRow, ...]


def base_config(preset: str) -> RunConfig:
    """A shipped preset's configuration; the defaults for an empty name or an unreadable preset."""
    try:
        return load_config(preset or None)
    except (LoraSmithError, OSError):
        return RunConfig()


def changed_settings(config: RunConfig, base: RunConfig) -> list[SettingRow]:
    """The settings that differ from `base`, in the order of the form."""
    return [row for facts in fields().values() if (row := _row(facts, (config, base))) and _differs(row)]


def all_settings(config: RunConfig) -> list[SettingTable]:
    """Every setting, table by table."""
    return [SettingTable(table.title, tuple(_row(facts, (config,)) for facts in table.fields)) for table in form()]


def differing_settings(configs: Sequence[RunConfig | None]) -> list[SettingRow]:
    """The settings that differ between the runs that have a configuration; file locations last.

    A run without one has "?" in each row.
    """
    present = [config for config in configs if config is not None]
    rows = []
    for facts in fields().values():
        if len({repr(_value(config, facts)) for config in present}) > 1:
            texts = tuple("?" if config is None else _text(facts, _value(config, facts)) for config in configs)
            rows.append(SettingRow(facts.key, facts.title, facts.help, texts))
    return sorted(rows, key=lambda row: row.key in _PLACES)


def _row(facts: FieldFacts, configs: Sequence[RunConfig]) -> SettingRow:
    texts = tuple(_text(facts, _value(config, facts)) for config in configs)
    return SettingRow(facts.key, facts.title, facts.help, texts)


def _differs(row: SettingRow) -> bool:
    return len(set(row.values)) > 1


def _value(config: RunConfig, facts: FieldFacts) -> Any:
    return getattr(getattr(config, facts.table), facts.name)


def homeless(path: str | Path) -> str:
    """A path with "~" for the user's home."""
    text, home = printable(path), f"{printable(Path.home())}/"
    return f"~/{text[len(home) :]}" if len(home) > 2 and text.startswith(home) else text


def _text(facts: FieldFacts, value: Any) -> str:
    """With its unit; the user's home as "~", so that a page can be shown to others."""
    value = list(value) if isinstance(value, tuple) else value
    text = homeless(value_text(facts, value)) or NOTHING
    unit_text = unit(facts, value)
    return (text if len(text) <= LONGEST else f"{text[:LONGEST]} …") + (f" {unit_text}" if unit_text else "")
