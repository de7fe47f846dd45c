"""The command line: a group with the options of a run, and the commands, each imported when it is called."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from engine.errors import UsageError
from engine.text import printable
from tui.commands.run_options import run_options

COMMANDS = (
    "demo",
    "check",
    "caption",
    "plan",
    "runs",
    "queue",
    "attach",
    "stop",
    "resume",
    "set",
    "best",
    "report",
    "compare",
    "inspect",
    "lora",
    "try",
    "presets",
    "convert",
    "export",
    "schema",
    "info",
    "config",
    "locate",
    "fetch",
    "completion",
)
SCREEN_ONLY = {"no_mouse": "--no-mouse", "low_bandwidth": "--low-bandwidth", "ascii_only": "--ascii"}
"""Options without a meaning where no screen is shown."""
_MODULES = {"set": "set_value", "try": "try_out"}


class LazyGroup(click.Group):
    """Imports a command's module when the command is called: `--version` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of the help."""
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; a name that is almost a command's is answered with that."""
        near = [] if not args or args[0] in COMMANDS else difflib.get_close_matches(args[0].lower(), COMMANDS, n=2)
        if near:
            hint = f"Did you mean {' or '.join(near)}?"
            raise UsageError(f"There is no command {printable(args[0])}.", hint, code="command-unknown")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"tui.commands.{_MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = module.command
        return command


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from tui.commands.version import show_version

        show_version()
        ctx.exit()


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--preset", metavar="NAME|FILE", help="Train with this preset, or with a configuration file.")
@click.option(
    "--images", metavar="DIR", help="The folder of images. Without --preset also how the screen draws images."
)
@run_options
@click.option("--detach", is_flag=True, help="Return as soon as the training has started.")
@click.option("--json", "as_json", is_flag=True, help="Print the run's events, one JSON object per line.")
@click.option("--dry-run", is_flag=True, help="Check and show everything, train and write nothing.")
@click.option("--prepare", "prepare_only", is_flag=True, help="Write the run's folder and start nothing: for torchrun.")
@click.option("--restart", is_flag=True, help="Start over where an unfinished run is; that run is kept.")
@click.option(
    "--on-oom",
    type=click.Choice(["ask", "retry", "stop"]),
    help="When memory runs out: ask for a remedy, continue with the next one (the default), or stop.",
)
@click.option("--on-end", metavar="COMMAND", help="Run this command when the training has ended, however it ended.")
@click.option("--no-mouse/--mouse", default=None, help="The screen leaves the mouse to the terminal.")
@click.option(
    "--low-bandwidth/--full-bandwidth", default=None, help="The screen for slow lines: few updates, no images."
)
@click.option("--ascii/--unicode", "ascii_only", default=None, help="The screen draws charts and bars in ASCII.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the versions of LoRA Smith and of what it uses.",
)
@click.pass_context
def cli(ctx: click.Context, /, preset: str | None, **options: Any) -> int | None:
    """Train a LoRA for Stable Diffusion, SDXL or FLUX from a folder of images.

    \b
    lorasmith                                    the screen: the wizard, and all runs
    lorasmith demo
    lorasmith --preset sd15-realistic --images DIR --model FILE.safetensors --name NAME

    Without --preset the screen opens; --images, --model and --name fill in its wizard. There, --images with one of
    auto, halfblock, sixel, kitty, off sets how images are drawn (a folder of that name: ./off).

    \b
    Environment variables:
    LORASMITH_NOTIFY=off    no bell and no notification when a run that is watched ends
    LORASMITH_ASCII=1       signs, lines and charts in ASCII, as on TERM=linux and vt100; 0: never
    LORASMITH_THEME         the colours: smith-dark, smith-light, smith-16, high-contrast, no-colour, ...
    NO_COLOR                no colours
    COLORTERM=truecolor     24-bit colours over SSH, where the terminal has them
    CUDA_VISIBLE_DEVICES    the GPUs that may be used
    """
    typed = sorted(name for name, value in {"preset": preset, **options}.items() if value)
    typed += [name for name in SCREEN_ONLY if options[name] is False]
    if ctx.invoked_subcommand is not None:
        if typed:
            raise UsageError(
                f"The options of a run cannot be combined with `{ctx.invoked_subcommand}`.",
                f"Put that command's own options after it: lorasmith {ctx.invoked_subcommand} --help",
                code="options-not-together",
            )
        return None
    if preset is None:
        return _without_preset(typed, options)
    for name, option in SCREEN_ONLY.items():
        if options.pop(name) is not None:
            raise UsageError(
                f"{option} is for the screen, and --preset shows none.",
                f"Leave {option} out.",
                code="option-without-screen",
            )
    from tui.commands.run import run_preset

    return run_preset(preset, **options)


def _without_preset(typed: Sequence[str], options: dict[str, Any]) -> int:
    """The screen, with what was typed filled into the wizard."""
    from tui import start
    from tui.setup.configuration import OPTIONS
    from tui.setup.user_config import IMAGE_MODES

    if set(typed) - {"images", "model", "name", *SCREEN_ONLY} or (typed and start.refusal()):
        raise UsageError(
            "A run needs a preset.", "Add --preset NAME; `lorasmith presets` lists them.", code="preset-not-set"
        )
    images = None
    if options["images"] in IMAGE_MODES:
        images, options["images"] = options["images"], None
    for name in ("images", "model"):
        if options[name] and Path(options[name]).exists():
            options[name] = str(Path(options[name]).absolute())  # the wizard may be continued from another folder
    prefill = {OPTIONS[name][1]: options[name] for name in ("images", "model", "name") if options[name]}
    return start.show(
        images=images,
        mouse=None if options["no_mouse"] is None else not options["no_mouse"],
        low_bandwidth=options["low_bandwidth"],
        ascii_only=options["ascii_only"],
        prefill=prefill,
    )
