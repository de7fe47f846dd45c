"""Several runs from one command: presets times values of settings, each run with a name that shows its values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import UsageError
from engine.text import printable

MOST_RUNS = 1000
_PAIRS = {"[": "]", "{": "}", "(": ")"}
_UNFIT = re.compile(r"[^A-Za-z0-9.+_-]+")


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes in turn."""

    key: str
    values: tuple[str, ...]
    """As they are typed."""


def parse_axis(typed: str) -> Axis:
    """ "training.unet_lr=1e-4,2e-4" as an axis. Commas within quotation marks and brackets do not divide.

    Raises:
        UsageError: no key, no value, or the same value twice.
    """
    key, equals, written = typed.partition("=")
    values = tuple(part.strip() for part in _parts(written))
    if not equals or "." not in key or not all(values):
        raise UsageError(
            f"--grid {printable(typed)} is no list of values.",
            "Write --grid table.key=value,value.",
            code="grid-not-possible",
        )
    if len(set(values)) < len(values):
        raise UsageError(f"--grid {printable(typed)} has a value twice.", "Write each once.", code="grid-not-possible")
    return Axis(key.strip(), values)


def parse_grid(typed: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of all `--grid` options.

    Raises:
        UsageError: as `parse_axis`; two are for the same key, or there are too many combinations.
    """
    axes = tuple(map(parse_axis, typed))
    keys = [axis.key for axis in axes]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UsageError(
            f"--grid {twice} is there twice.", "List all its values in one --grid.", code="grid-not-possible"
        )
    number = 1
    for axis in axes:
        number *= len(axis.values)
    if number > MOST_RUNS:
        raise UsageError(
            f"The values of --grid make {number} runs; {MOST_RUNS} can be added at once.",
            "Leave values out.",
            code="grid-not-possible",
        )
    return axes


def combinations(axes: Sequence[Axis]) -> list[tuple[str, ...]]:
    """The `key=value` settings of each run, the last axis changing fastest."""
    return [
        tuple(f"{axis.key}={value}" for axis, value in zip(axes, values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def name_part(setting: str) -> str:
    """What a setting adds to the name of its run: "unet_lr-1e-4"."""
    key, _, value = setting.partition("=")
    return f"{key.rpartition('.')[2]}-{_UNFIT.sub('_', value).strip('_') or 'empty'}"


def unique(names: Sequence[str]) -> list[str]:
    """The names, numbered where two are the same."""
    taken: set[str] = set()
    result = []
    for name in names:
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        free = (other for other in numbered if other not in taken and other not in names)
        chosen = name if name not in taken else next(free)
        taken.add(chosen)
        result.append(chosen)
    return result


def _parts(written: str) -> list[str]:
    """`written` divided at its commas."""
    parts, part, open_brackets, quote = [], "", [], ""
    for character in written:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in _PAIRS:
            open_brackets.append(_PAIRS[character])
        elif open_brackets and character == open_brackets[-1]:
            open_brackets.pop()
        elif character == "," and not open_brackets:
            parts.append(part)
            part = ""
            continue
        part += character
    return [*parts, part]
