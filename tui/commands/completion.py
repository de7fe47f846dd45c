"""`lorasmith completion`: the completion of commands and options by Tab, for a shell."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from engine.atomic import write_text
from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.reading import read_text
from engine.text import printable
from tui.shell import output

SHELLS = ("bash", "zsh", "fish")
_MARK = "# completion of lorasmith"


@click.command("completion", short_help="Install completion by Tab for your shell.")
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.option("--print", "only_print", is_flag=True, help="Print the script and install nothing.")
def command(shell: str | None, only_print: bool) -> int:
    """Install the completion of commands and options by the Tab key for SHELL; without SHELL for that of $SHELL.

    It is one file of the shell's own: for bash and zsh a line in ~/.bashrc or ~/.zshrc reads it.
    """
    shell = shell or _own_shell()
    script = _script(shell)
    if only_print:
        output.result(script)
        return ExitCode.DONE
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    place = folder / "fish/completions/lorasmith.fish" if shell == "fish" else folder / f"lorasmith/completion.{shell}"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place, script)
    output.result(f"Installed: {printable(place)}")
    if shell != "fish":
        _source(Path.home() / f".{shell}rc", place)
    output.message("It works in every new shell.")
    return ExitCode.DONE


def _own_shell() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UsageError(
            f"There is no completion for the shell {printable(name) or 'of this session'}.",
            f"Name one of: {', '.join(SHELLS)}.",
            code="shell-unknown",
        )
    return name


def _script(shell: str) -> str:
    from tui.cli import cli
    from tui.main import COMPLETION

    kind = get_completion_class(shell)
    assert kind is not None, "click has these shells"
    return kind(cli, {}, "lorasmith", COMPLETION).source()


def _source(start_file: Path, script: Path) -> None:
    """Make the shell read the script when it starts; once, however often this is called."""
    start_file = start_file.resolve()  # a link to the person's own files stays one
    line = f'[ -f "{script}" ] && . "{script}"  {_MARK}'
    try:
        text = read_text(start_file) if start_file.exists() else ""
    except UnicodeDecodeError:
        raise UsageError(
            f"{printable(start_file)} is not UTF-8, and was not changed.",
            f"Add this line to it: {line}",
            code="start-file-not-utf8",
        ) from None
    if line in text:
        return
    kept = [each for each in text.splitlines() if _MARK not in each]
    write_text(start_file, "\n".join([*kept, line]) + "\n")
    output.result(f"A line in {printable(start_file)} reads it.")
