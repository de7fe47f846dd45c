"""What to type instead of an option that is a setting's key or an argument of Kohya's scripts."""

from __future__ import annotations

from collections.abc import Sequence

from engine.text import shell_line


def setting_hint(option: str, arguments: Sequence[str]) -> str:
    """A sentence with the setting of an unknown option; empty where it is neither.

    Args:
        option: as typed, without a value after "=".
        arguments: of the whole command line, for the value.
    """
    from engine.config.kohya.rules import ARGUMENTS, rule_of
    from engine.config.problems import keys

    name = option.lstrip("-").replace("-", "_")
    own = [f"{table}.{name}" for table, members in keys().items() if name in members]
    rule = rule_of(name) if name in ARGUMENTS else None
    if own:
        key = own[0]
    elif rule is not None and rule.target:
        key = rule.target
    else:
        return f"{name} is an argument of Kohya's scripts: {rule.text}." if rule is not None and rule.text else ""
    return f"Settings are given by --set: {shell_line(('--set', f'{key}={_value(option, arguments)}'))}"


def _value(option: str, arguments: Sequence[str]) -> str:
    """What was typed after the option; a flag is true."""
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name == option:
            following = arguments[place + 1 : place + 2]
            return value if equals else following[0] if following and not following[0].startswith("--") else "true"
    return "VALUE"
