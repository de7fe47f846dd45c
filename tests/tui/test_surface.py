"""The command line is fixed: scripts rely on it. And it is quick: no command loads torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from tui.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[2]
SURFACE = {
    "": {
        "--preset", "--images", "--model", "--name", "--output_dir", "--dataset_config", "--set", "--detach", "--json",
        "--dry-run", "--restart", "--on-oom", "--kohya-exact", "--version", "--no-mouse", "--low-bandwidth",
    },
    "demo": {"--output_dir", "--set"},
    "runs": {"--json"},
    "attach": {"RUN", "--plain", "--no-mouse", "--low-bandwidth", "--images"},
    "stop": {"RUN", "--wait"},
    "resume": {"RUN", "--set", "--accept-changes", "--detach", "--json"},
    "set": {"RUN", "TABLE.KEY=VALUE"},
    "inspect": {"FILE", "--json"},
    "check": {
        "[DIR]", "--dataset_config", "--preset", "--model", "--trigger", "--set", "--html", "--repair", "--json",
    },
    "plan": {"[PRESET]", "--preset", "--images", "--model", "--name", "--dataset_config", "--set", "--vram", "--json"},
    "presets": set(),
    "presets show": {"NAME"},
    "convert": {"FILE", "--output", "--json"},
    "export": {"RUN|PRESET", "--kohya", "--images", "--model", "--name"},
    "schema": set(),
    "info": {"--json"},
    "locate": set(),
    "fetch": {"WHAT", "--yes"},
    "caption": {
        "[DIR]", "--with", "--model", "--url", "--prompt", "--template", "--trigger", "--existing", "--set",
        "--download", "--dry-run", "--undo", "--json",
    },
}  # fmt: skip


def surface(command: click.Command, name: str = "") -> dict[str, set[str]]:
    context = click.Context(command)
    options = {
        option for parameter in command.params
        for option in (parameter.opts if isinstance(parameter, click.Option) else [parameter.make_metavar(context)])
    }  # fmt: skip
    found = {name: options}
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            inner = command.get_command(context, child)
            assert inner is not None
            found |= surface(inner, f"{name} {child}".strip())
    return found


def test_the_surface_is_frozen() -> None:
    assert surface(cli) == SURFACE


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str) -> None:
    context = click.Context(cli)
    found = cli.get_command(context, command)
    assert found is not None and found.get_short_help_str()


def test_no_command_loads_torch() -> None:
    """Every command's module, and what each imports at its top."""
    names = ["tui.main", "tui.dry_run", *(f"tui.commands.{path.stem}" for path in (ROOT / "tui/commands").glob("*.py"))]
    heavy = ["torch", "numpy", "diffusers", "transformers", "peft", "accelerate", "textual"]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names!r}];"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_bare_command_line_is_light() -> None:
    heavy = ["torch", "numpy", "pydantic", "PIL", "tomlkit"]
    code = f"import sys, tui.main; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
