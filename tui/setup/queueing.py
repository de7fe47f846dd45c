"""Runs for the queue from what was typed: presets times values, each with its own name and place, all checked first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import LoraSmithError, UsageError
from engine.queue.grid import combinations, name_part, parse_grid, unique
from engine.queue.store import NewEntry
from engine.text import plural, printable
from tui.setup import configuration

if TYPE_CHECKING:
    from engine.config import RunConfig

MOST_PROBLEMS = 20


@dataclass(frozen=True)
class _Typed:
    """A combination of a preset and values, before it has its name."""

    preset: str
    values: tuple[str, ...]
    config: RunConfig | None
    problem: LoraSmithError | None = None


def new_entries(
    presets: Sequence[str],
    grid: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    output_dir: str | None = None,
    **options: Any,
) -> tuple[list[NewEntry], list[str]]:
    """The runs of a command, checked as `lorasmith --preset` checks them, and remarks about them.

    Args:
        presets: names or files.
        grid: "table.key=value,value": every value with every other.
        overrides: settings of all runs.
        output_dir: of the only run, or the folder in which each has its own.
        options: as `configuration.from_options` takes them.

    Raises:
        UsageError: something is wrong with some of them; all problems are named.
    """
    axes = parse_grid(grid)
    typed = [
        _read(preset, values, overrides, output_dir=output_dir, **options)
        for preset in dict.fromkeys(presets)
        for values in combinations(axes)
    ]
    configs = _named([item for item in typed if item.config is not None], output_dir)
    problems = [(" ".join((item.preset, *item.values)), item.problem) for item in typed if item.problem is not None]
    name = options.get("name") if len(typed) == 1 else None
    remarks, new = [], []
    for item, config in zip((item for item in typed if item.config is not None), configs, strict=True):
        try:
            new.append(checked(config, _command_line(item, config, overrides, options)))
        except LoraSmithError as error:
            problems.append((config.saving.output_name, error))
        remarks += configuration.remarks(item.preset, config, name)
    problems += [(item.config.saving.output_name, _taken(item.config)) for item in _clashing(new)]
    if problems:
        raise _all_problems(problems, len(typed))
    return new, list(dict.fromkeys(remarks))


def checked(config: RunConfig, command_line: Sequence[str] = ()) -> NewEntry:
    """A run for the queue, checked as at its start.

    Raises:
        LoraSmithError: what the person must fix.
    """
    from engine.runs.layout import default_output_dir
    from tui.setup.preflight import preflight

    asked = config.memory.on_oom
    config = config.changed(
        saving={"output_dir": str(default_output_dir(config).expanduser().absolute())},
        memory={"on_oom": "stop" if asked == "stop" else "retry"},  # nobody is there to be asked
    )
    return NewEntry(preflight(config).run.written, tuple(command_line))


def _read(preset: str, values: tuple[str, ...], overrides: Sequence[str], **options: Any) -> _Typed:
    try:
        return _Typed(preset, values, configuration.from_options(preset, (*overrides, *values), **options))
    except LoraSmithError as error:
        return _Typed(preset, values, None, error)


def _named(typed: Sequence[_Typed], output_dir: str | None) -> list[RunConfig]:
    """Each run's configuration with a name, and so a place, of its own; the trigger word stays."""
    from engine.dataset.trigger import kept_trigger

    configs = [item.config for item in typed if item.config is not None]
    names = [config.saving.output_name for config in configs]
    presets = {name: {item.preset for item, other in zip(typed, names, strict=True) if other == name} for name in names}
    parts = [
        [Path(item.preset).stem] * (len(presets[name]) > 1) + [name_part(value) for value in item.values]
        for item, name in zip(typed, names, strict=True)
    ]
    several = len(typed) > 1
    new_names = unique(["-".join([name, *part]) if several else name for name, part in zip(names, parts, strict=True)])
    result = []
    for config, old, new in zip(configs, names, new_names, strict=True):
        changes: dict[str, dict[str, Any]] = {"saving": {"output_name": new}}
        if several and config.saving.output_dir:
            changes["saving"]["output_dir"] = str(Path(output_dir or config.saving.output_dir) / new)
        if new != old:
            for dotted, value in kept_trigger(config).items():
                table, _dot, key = dotted.partition(".")
                changes.setdefault(table, {})[key] = value
        result.append(config.changed(**changes))
    return result


def _command_line(
    item: _Typed, config: RunConfig, overrides: Sequence[str], options: Mapping[str, Any]
) -> tuple[str, ...]:
    """The words that start the same run without the queue."""
    typed = [
        word
        for name, (option, _key) in configuration.OPTIONS.items()
        if name not in ("name", "output_dir") and options.get(name)
        for word in (option, str(options[name]))
    ]
    flags = [f"--{name.replace('_', '-')}" for name in ("early_stop", "kohya_exact") if options.get(name)]
    settings = [word for setting in (*overrides, *item.values) for word in ("--set", setting)]
    name = ("--name", config.saving.output_name)
    return ("lorasmith", "--preset", item.preset, *typed, *name, *flags, *settings)


def _clashing(new: Sequence[NewEntry]) -> list[NewEntry]:
    """Those that would go to the place of an earlier one."""
    places = [item.config.saving.output_dir for item in new]
    return [item for number, item in enumerate(new) if places[number] in places[:number]]


def _taken(config: RunConfig) -> LoraSmithError:
    return UsageError(
        f"Another of these runs goes to {printable(config.saving.output_dir)} too.",
        "Choose other names.",
        code="queue-place-taken",
    )


def _all_problems(problems: Sequence[tuple[str, LoraSmithError]], number: int) -> LoraSmithError:
    """One error with every problem; the only one as it is."""
    if number == 1:
        return problems[0][1]
    texts: dict[tuple[str, str], list[str]] = {}
    for name, error in problems:
        texts.setdefault((error.message, error.hint), []).append(name)
    lines = []
    for (message, hint), names in list(texts.items())[:MOST_PROBLEMS]:
        who = printable(names[0]) if len(names) == 1 else f"{printable(names[0])} and {plural(len(names) - 1, 'other')}"
        lines.append(f"{who}: {message} {hint}".strip())
    more = [f"… and {len(texts) - MOST_PROBLEMS} more"] if len(texts) > MOST_PROBLEMS else []
    return UsageError(
        "\n".join([f"Nothing was added: {len(problems)} of {number} runs cannot start.", *lines, *more]),
        code="queue-runs-refused",
    )
