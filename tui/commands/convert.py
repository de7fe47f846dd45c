"""`lorasmith convert FILE`: what each key of a file of Kohya's does here, and the same as a preset."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from engine.exit_codes import ExitCode
from engine.runs.layout import expanded
from engine.text import printable
from tui import output


@click.command("convert")
@click.argument("file")
@click.option("--output", "target", metavar="FILE", help="Where the preset goes. Without it: NAME.toml, here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; no preset is written.")
def command(file: str, target: str | None, as_json: bool) -> int:
    """Tell what each key of Kohya's FILE (training TOML, GUI JSON, train.sh, .bat) does, and write it as a preset."""
    from engine.atomic import write_text
    from engine.config import ConfigError, load_config
    from engine.config.kohya.convert import conversion_of
    from engine.config.kohya.dataset_file import read_text
    from engine.config.write import dump_toml
    from engine.errors import UsageError

    path = expanded(file)
    found = conversion_of(path, read_text(path))
    if found is None:
        raise UsageError(
            f"{printable(path)} is no training TOML, GUI configuration or call of a LoRA script of Kohya's.",
            "A preset of this program needs no conversion.",
        )
    if as_json:
        output.json_result(
            {"kind": found.kind, "entries": [asdict(entry) for entry in found.entries],
             "problems": [str(problem) for problem in found.problems], "values": found.values}
        )  # fmt: skip
        return ExitCode.USAGE if found.problems else ExitCode.DONE
    for entry in found.entries:
        output.result(entry.line())
    if found.problems:
        raise ConfigError(found.problems)
    place = Path(target) if target else Path(f"{path.stem}.toml")
    if place.exists():
        raise UsageError(f"{printable(place)} is there already.", "Name another file with --output.")
    write_text(place, dump_toml(load_config(path), f"Converted from {path.name}, a {found.kind} of Kohya's."))
    output.narrate(f"Train with it: lorasmith --preset {place}")
    output.result(place)
    return ExitCode.DONE
