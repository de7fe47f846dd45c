"""Settings that change in the middle of a run: `training.changes`, a list of `engine.config.change.Change` as texts.

A run writes settings that are changed during training, and extensions, into this list before they take effect. So its
configuration alone determines each step: a resume and a repeat apply the same changes at the same steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NewType

from engine.config.change import LENGTH_KEYS, Change, read_change
from engine.config.schema import RunConfig

EffectiveConfig = NewType("EffectiveConfig", RunConfig)
"""The settings in force at a step: with the changes until then, without their list."""


def changes_of(config: RunConfig) -> tuple[Change, ...]:
    """The changes of a configuration, in their order."""
    return tuple(read_change(text) for text in config.training.changes)


def later_values(texts: Iterable[str], key: str) -> list[tuple[int, Any]]:
    """(update from which it applies, value) of each change of a setting in a list of changes; None unsets it."""
    table, _, name = key.partition(".")
    changes = [read_change(text) for text in texts]
    return [(it.step + 1, it.tables[table][name]) for it in changes if name in it.tables.get(table, {})]


def changed_by(config: RunConfig, change: Change) -> RunConfig:
    """`config` after `change`.

    Raises:
        ValidationError: an invalid value.
    """
    return config.changed(**change.tables)


def unchanged(config: RunConfig) -> EffectiveConfig:
    """`config` as it is at the start, without its list of changes."""
    return EffectiveConfig(config.changed(training={"changes": []}) if config.training.changes else config)


def stages(config: RunConfig) -> Iterator[tuple[int, EffectiveConfig]]:
    """(first step, settings in force from there on), from step 0; the changes of one step are one stage."""
    now, begin = unchanged(config), 0
    for change in changes_of(config):
        if change.step > begin:
            yield begin, now
            begin = change.step
        now = EffectiveConfig(changed_by(now, change))
    yield begin, now


def effective_config(config: RunConfig, step: int) -> EffectiveConfig:
    """The settings in force after `step` updates, with the changes of that moment; without the list."""
    return [now for begin, now in stages(config) if begin <= step][-1]


def at_the_end(config: RunConfig) -> EffectiveConfig:
    """The settings in force after all changes."""
    return [now for _, now in stages(config)][-1]


def with_change(config: RunConfig, change: Change) -> tuple[RunConfig, list[Change]]:
    """`config` with one more change in its list, and the later changes of the same setting, which it replaces.

    Raises:
        ValidationError: an invalid value, or too many changes.
    """
    same = LENGTH_KEYS if change.key in LENGTH_KEYS else (change.key,)
    listed = changes_of(config)
    replaced = [item for item in listed if item.step > change.step and item.key in same]
    kept = [item for item in listed if item not in replaced]
    place = sum(item.step <= change.step for item in kept)
    texts = [str(item) for item in (*kept[:place], change, *kept[place:])]
    return config.changed(training={"changes": texts}), replaced
