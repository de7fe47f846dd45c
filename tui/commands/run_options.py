"""The options that make a run's configuration: of `lorasmith --preset`, and of commands that set up runs as it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--model", metavar="PATH", help="The checkpoint: a .safetensors file or a diffusers folder."),
    click.option(
        "--name", metavar="NAME", help="The name of the output; also the trigger word where preset and --set have none."
    ),
    click.option("--output_dir", metavar="DIR", help="Where the files go. Without it: ./NAME/results_current."),
    click.option(
        "--dataset_config", metavar="FILE", help="Kohya's dataset configuration (TOML or JSON) instead of --images."
    ),
    click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Change a setting; repeatable."),
    click.option(
        "--early-stop", is_flag=True, help="End the run when its newest files are overtrained; keeps all files."
    ),
    click.option(
        "--kohya-exact", is_flag=True, help="Compute every number as Kohya's scripts do, also where that is worse."
    ),
)


def run_options(command: F) -> F:
    """The options of `configuration.from_options`, but for the preset, the images and the out-of-memory, whose texts
    differ."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
