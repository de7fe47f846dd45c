"""`lorasmith config`: the person's own file of defaults."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

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
    output.result(f"{printable(path)}{'' if path.exists() else ' (not there)'}")
    for line in lines(config):
        output.result(line)
    return ExitCode.DONE


def lines(config: UserConfig) -> Iterator[str]:
    """The values in force, each with its source."""
    yield "[defaults]"
    for key, (where, value) in config.defaults.items():
        yield printable(f"{key} = {_as_toml(value)}  ({where.rpartition(', ')[2]})")
    yield "[screen]"
    for entry in fields(ScreenDefaults):
        yield printable(f"{entry.name} = {_effective(entry.name, getattr(config.screen, entry.name))}")
    yield "[keys]"
    for name, (where, key) in config.keys.items():
        yield printable(f"{_as_toml(name)} = {_as_toml(key)}  ({where.rpartition(', ')[2]})")


def _effective(name: str, value: str | bool | None) -> str:
    from tui.display import symbols
    from tui.shell import notify

    variable = {"theme": "LORASMITH_THEME", "ascii": symbols.VARIABLE, "notify": notify.VARIABLE}.get(name, "")
    if variable in os.environ:
        return f"{os.environ[variable]}  ({variable})"
    if value is not None:
        return f"{_as_toml(value)}  (this file)"
    usual = {"theme": "as chosen last", "images": '"auto"', "mouse": "true", "ascii": "by TERM", "notify": "true"}
    return f"{usual.get(name, 'false')}  (default)"


def _as_toml(value: Any) -> str:
    """A value of the file; JSON is TOML for texts, numbers and flat lists."""
    return json.dumps(value, ensure_ascii=False)


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
