"""`lorasmith config`: the person's own file of defaults."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import tomlkit

from engine import atomic
from engine.errors import storing
from engine.exit_codes import ExitCode
from engine.reading import MAX_CONFIG, read_text
from engine.text import printable
from tui.setup.user_config import (
    TEMPLATE,
    ScreenDefaults,
    UserConfig,
    forget_user_config,
    read_user_config,
    user_config_path,
)
from tui.shell import output


@click.command("config", short_help="Show or edit your own defaults.")
@click.option("--edit", "is_edited", is_flag=True, help="Open the file in your editor (VISUAL or EDITOR).")
def command(is_edited: bool) -> int:
    """Print the path of your file of defaults, and the effective values.

    [defaults] holds settings of new runs that a preset leaves open, [screen] how the screen is shown, [keys] other keys
    for actions. The command line and environment variables override the first two. There need not be such a file.
    """
    path = user_config_path()
    if is_edited:
        _edit(path)
    config = read_user_config()
    if config.keys:
        from tui.display.own_keys import bind_own_keys

        bind_own_keys(config.keys)  # checks them
    output.result(f"# {printable(path)}{'' if path.exists() else ' (not there)'}")
    for line in lines(config):
        output.result(line)
    return ExitCode.DONE


def lines(config: UserConfig) -> Iterator[str]:
    """The values in force as TOML, which the file takes again, each with its source; as comments those that depend on
    the terminal."""
    yield "[defaults]"
    for key, (where, value) in config.defaults.items():
        yield f"{key} = {_as_toml(value)}  # {where.rpartition(', ')[2]}"
    yield "[screen]"
    for entry in fields(ScreenDefaults):
        yield _effective(entry.name, getattr(config.screen, entry.name))
    yield "[keys]"
    for name, (where, key) in config.keys.items():
        yield f"{_as_toml(name)} = {_as_toml(key)}  # {where.rpartition(', ')[2]}"


def _effective(name: str, value: str | bool | None) -> str:
    from tui.display import symbols
    from tui.shell import notify

    in_environment: dict[str, tuple[str, str | bool]] = {
        "theme": ("LORASMITH_THEME", os.environ.get("LORASMITH_THEME", "")),
        "ascii": (symbols.VARIABLE, symbols.symbols().ascii),
        "notify": (notify.VARIABLE, notify.enabled()),
    }
    variable, effective = in_environment.get(name, ("", ""))
    if variable in os.environ:
        return f"{name} = {_as_toml(effective)}  # {variable}"
    if value is not None:
        return f"{name} = {_as_toml(value)}  # this file"
    if name in ("theme", "ascii"):
        return f"# {name}: {'as chosen last' if name == 'theme' else 'by TERM'}"
    usual: dict[str, str | bool] = {"images": "auto", "mouse": True, "notify": True}
    return f"{name} = {_as_toml(usual.get(name, False))}  # default"


def _as_toml(value: Any) -> str:
    """A value in one line, with escapes for what a terminal would not print."""
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_as_toml(key)} = {_as_toml(entry)}" for key, entry in value.items())
        return f"{{{pairs}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_as_toml, value))}]"
    text: str = tomlkit.item(value).as_string()
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in text)


def _edit(path: Path) -> None:
    """Let the person edit the file, which is written even if something in it is wrong: that is reported next."""
    from tui.shell.editor import edit, editor

    text = read_text(path, MAX_CONFIG) if path.exists() else TEMPLATE
    result = edit(text, path.suffix, editor())
    if result != text:
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, result)
        forget_user_config()
