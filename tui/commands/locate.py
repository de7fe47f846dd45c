"""`lorasmith locate`: where the program keeps its files."""

from __future__ import annotations

import click

from engine import paths
from engine.exit_codes import ExitCode
from engine.text import printable
from tui.setup.user_config import user_config_path
from tui.shell import output


@click.command("locate")
def command() -> int:
    """Print the directories of presets, state and caches."""
    places = [("presets", path) for path in paths.preset_directories() if path.is_dir()]
    places += [
        ("your defaults", user_config_path()),
        ("your presets", paths.user_config() / "presets"),
        ("list of runs", paths.user_state() / "runs.jsonl"),
        ("caches", paths.user_cache()),
        ("shipped files", paths.ASSETS),
    ]
    for what, path in places:
        output.result(f"{what:13}  {printable(path)}")
    return ExitCode.DONE
