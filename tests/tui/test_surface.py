"""The command line is fixed: scripts rely on it. And it is quick: no command loads torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from tui.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[2]
LORA = {"-o", "--output", "--dry-run", "--overwrite", "--json"}
SURFACE = {
    "": {
        "--preset", "--images", "--model", "--name", "--output_dir", "--dataset_config", "--set", "--detach", "--json",
        "--dry-run", "--prepare", "--restart", "--on-oom", "--on-end", "--early-stop", "--kohya-exact", "--version",
        "--no-mouse", "--low-bandwidth",
        "--ascii",
    },
    "demo": {"--output_dir", "--set"},
    "runs": {"--json"},
    "queue": set(),
    "queue add": {
        "--preset", "--images", "--model", "--name", "--output_dir", "--dataset_config", "--set", "--grid", "--on-oom",
        "--early-stop", "--kohya-exact", "--queue",
    },
    "queue list": {"--json", "--queue"},
    "queue start": {"[ENTRY]...", "--detach", "--cards", "--on", "--unless-paused", "--queue"},
    "queue pause": {"[ENTRY]...", "--queue"},
    "queue move": {"ENTRY", "first|last|up|down|N", "--queue"},
    "queue remove": {"ENTRY...", "--queue"},
    "queue retry": {"[ENTRY]...", "--failed", "--queue"},
    "attach": {"[RUN]", "--plain", "--no-mouse", "--low-bandwidth", "--ascii", "--images"},
    "stop": {"RUN", "--wait"},
    "resume": {"RUN", "--set", "--from", "--dry-run", "--accept-changes", "--detach", "--json", "--on-end"},
    "set": {"RUN", "TABLE.KEY=VALUE", "--no-wait", "--timeout"},
    "best": {"RUN", "--use", "--overwrite", "--with-clip", "--with-dino", "--with-face", "--json"},
    "report": {"RUN", "--html", "--overwrite"},
    "compare": {"RUN RUN...", "--html", "--overwrite", "--json"},
    "inspect": {"FILE", "--json"},
    "lora": set(),
    "lora resize": {
        "FILE", "--rank", "--ratio", "--fro", "--cumulative", "--base", "--conv-rank", "--precision", *LORA,
    },
    "lora merge": {"FILE[=WEIGHT]...", "--method", "--rank", "--density", "--seed", "--into", "--precision", *LORA},
    "lora extract": {"TUNED", "BASE", "--rank", "--conv-rank", "--clamp", "--min-diff", "--precision", *LORA},
    "lora convert": {"FILE", "--to", *LORA},
    "lora edit": {
        "FILE", "--set", "--unset", "--trigger", "--thumbnail", "--strength", "--in-place", *LORA,
    },
    "try": {
        "FILE...", "--prompt", "--strength", "--compare", "--model", "--seed", "--steps", "--scale", "--width",
        "--height", "--sampler", "--negative", "-o", "--output", "--device", "--json",
    },
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
    "config": {"--edit"},
    "locate": set(),
    "fetch": {"WHAT", "--yes"},
    "completion": {"[bash|zsh|fish]", "--print"},
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
    options_of = {name: options}
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            inner = command.get_command(context, child)
            assert inner is not None
            options_of |= surface(inner, f"{name} {child}".strip())
    return options_of


def test_the_surface_is_frozen() -> None:
    assert surface(cli) == SURFACE


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str) -> None:
    context = click.Context(cli)
    loaded = cli.get_command(context, command)
    assert loaded is not None and loaded.get_short_help_str()


def test_no_command_loads_torch() -> None:
    """Every command's module, and what each imports at its top."""
    names = [
        "tui.main",
        "tui.shell.dry_run",
        *(f"tui.commands.{path.stem}" for path in (ROOT / "tui/commands").glob("*.py")),
    ]
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


def test_the_first_screen_is_light() -> None:
    """What it needs later it imports later: pydantic alone takes as long as all the rest."""
    heavy = ["torch", "numpy", "pydantic", "PIL", "tomlkit"]
    code = f"import sys, tui.app, tui.screens.home; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
