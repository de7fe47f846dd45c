"""What front ends of Kohya's scripts share: their keys become the scripts' arguments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from engine.config.conversion import Conversion, Entry, Rule
from engine.config.kohya.arguments import CLI_DEFAULTS, FLUX_DEFAULTS, OFF_AT_ZERO, convert_arguments
from engine.config.kohya.rules import FLAGS, rule_of
from engine.config.others.table import brief, our_default

SCRIPTS_DEFAULT = "not in the file: the default of Kohya's scripts"


def converted(
    arguments: Mapping[str, Any],
    program: str,
    family: str,
    defaults: Mapping[str, Any] = CLI_DEFAULTS,
    *,
    remark: str = SCRIPTS_DEFAULT,
    elsewhere: Collection[str] = (),
) -> Conversion:
    """The arguments as a configuration; a default that is not ours is reported.

    Args:
        defaults: values of arguments that the file lacks.
        remark: on each of these.
        elsewhere: arguments that the file has in another place.
    """
    conversion = convert_arguments(arguments, "configuration", defaults, from_file=arguments, family=family)
    conversion.program = program
    conversion.entries = [replace(entry, value=brief(entry.value)) for entry in conversion.entries]
    applied = {**defaults, **(FLUX_DEFAULTS if family == "flux" else {})}
    for argument, value in applied.items():
        rule = rule_of(argument)
        target = rule.target if rule is not None else f"sampling.{argument}"
        if argument not in arguments and argument not in elsewhere and value != our_default(target):
            conversion.record(argument, value, Rule("honoured", target, remark))
    if family != "sd15":  # else read from the checkpoint, as with Kohya's train_network
        conversion.set("model.family", family)
    return conversion


def drop_empty(
    arguments: dict[str, Any], names: Mapping[str, str], program: str
) -> tuple[dict[str, Any], list[str], list[Entry]]:
    """The arguments without those that are empty, off or 0, which the program does not pass on; the keys of these; and
    an entry for each whose default is another value.

    Args:
        names: argument to the key of the file, where it is another.
    """
    kept, unset, entries = {}, [], []
    for argument, value in arguments.items():
        if value not in (None, "", False, 0, [], {}):
            kept[argument] = value
            continue
        key = names.get(argument, argument)
        default = _default(argument)
        if value in (None, "", False, [], {}) or isinstance(value, bool) or not default or argument in OFF_AT_ZERO:
            unset.append(key)
            continue
        text = f"{default:g}" if isinstance(default, float) else str(default)
        entries.append(Entry(key, str(value), "no effect", "", f"{program} drops a 0, so that {text} is used"))
    return kept, unset, entries


def _default(argument: str) -> Any:
    rule = rule_of(argument)
    if argument in FLAGS or rule is None or not rule.target.count(".") or rule.status not in ("honoured", "better"):
        return None
    return CLI_DEFAULTS.get(argument, our_default(rule.target))


def settings_list(table: Mapping[str, Any]) -> list[str]:
    """A table of settings in Kohya's form: ["weight_decay=0.1"]."""
    return [f"{key}={_setting(value)}" for key, value in table.items()]


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value.capitalize() if isinstance(value, str) and value in ("true", "false") else str(value)
