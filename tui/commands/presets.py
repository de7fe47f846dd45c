"""`lorasmith presets`: list them, show one."""

from __future__ import annotations

from pathlib import Path

import click

from engine.config import find_preset, list_presets
from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.reading import read_text
from engine.text import printable
from tui.shell import output


@click.group("presets", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> int | None:
    """List the presets, or show one."""
    if ctx.invoked_subcommand is not None:
        return None
    presets = list_presets()
    width = max((len(preset.name) for preset in presets), default=0)
    for preset in presets:
        for line in output.wrapped(f"{preset.name:{width}}  {preset.title}", 80, "", " " * (width + 2)):
            output.result(line)
    return ExitCode.DONE


@command.command("show")
@click.argument("name")
def show(name: str) -> int:
    """Print the preset NAME as it is, comments included."""
    output.result(_text(find_preset(name)).rstrip("\n"))
    return ExitCode.DONE


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise UsageError(
            f"The preset {printable(path)} cannot be read: {error.strerror}.", code="preset-unreadable"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(
            f"The preset {printable(path)} is not UTF-8.", "Save it as UTF-8 text.", code="preset-not-utf8"
        ) from None
