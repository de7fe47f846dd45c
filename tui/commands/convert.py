"""`lorasmith convert FILE`: what each key of another trainer's file does here, and the same as a preset."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.exit_codes import ExitCode
from engine.paths import expanded
from engine.text import printable, shell_line
from tui.shell import output

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.config.conversion import Conversion, Entry
    from engine.errors import LoraSmithError

ORDER = ("not supported", "better", "no effect", "honoured")
"""Statuses of keys; those that a person should look at come first."""
INDENT = 15


@click.command("convert", short_help="Show what each key of another trainer's file does; make it a preset.")
@click.argument("file")
@click.option("--output", "target", metavar="FILE", help="Where the preset goes. Without it: NAME-preset.toml, here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; no preset is written.")
def command(file: str, target: str | None, as_json: bool) -> int:
    """Show what each key of another trainer's FILE does, and write it as a preset.

    Kohya's training TOML, GUI JSON, train.sh and .bat; LoRA_Easy_Training_Scripts' and lora-scripts' TOML; ai-toolkit's
    YAML; OneTrainer's JSON. A file with several folders of images becomes two: the preset, and a dataset configuration
    next to it.
    """
    from engine.atomic import write_text
    from engine.config import load_config
    from engine.config.foreign import conversion_of
    from engine.config.kohya.dataset_file import read_text
    from engine.config.write import dump_toml
    from engine.errors import UsageError
    from tui.setup.preflight import missing_paths, refused_here

    path = expanded(file)
    conversion = conversion_of(path, read_text(path))
    if conversion is None:
        if path.suffix.lower() == ".toml":
            load_config(path)  # reports where it is no TOML
        raise UsageError(
            f"{printable(path)} is not a configuration of Kohya's scripts or of another trainer that is known here.",
            "A preset of this program needs no conversion.",
            code="no-kohya-file",
        )
    config, refusal = _checked(path)
    conversion.entries = _marked(conversion.entries, refusal)
    if as_json:
        output.json_result(
            {"program": conversion.program, "kind": conversion.kind,
             "entries": [asdict(entry) for entry in conversion.entries],
             "problems": [] if refusal is None else str(refusal).splitlines(), "values": conversion.values}
        )  # fmt: skip
        return ExitCode.DONE if refusal is None else refusal.exit_code
    for line in report(conversion):
        output.result(line)
    if refusal is not None:
        raise refusal
    assert config is not None
    place = expanded(target) if target else Path(f"{path.stem}-preset.toml")
    _require_new(place)
    title = f"Converted from {path.name}, a {conversion.kind} of {_of(conversion.program)}."
    images = place.with_name(f"{place.stem}-dataset.toml")
    if conversion.datasets is not None and config.dataset.dataset_config == str(path.absolute()):
        _require_new(images)
        write_text(images, dataset_toml(conversion.datasets, title))
        config = config.changed(dataset={"dataset_config": str(images.absolute())})
        output.message(f"The folders of images are in {printable(images)}.")
    write_text(place, dump_toml(config, title))
    if missing := missing_paths(config):
        output.message(f"Not on this machine, and needed by a run: {', '.join(missing)}.")
    if refusal_here := refused_here(config):
        output.message(f"On this machine a run would be refused: {printable(refusal_here)}")
    output.message(f"Train with it:\n  {shell_line(('lorasmith', '--preset', place))}")
    output.result(place)
    return ExitCode.DONE


def _of(program: str) -> str:
    return "Kohya's" if program == "Kohya" else program


def _require_new(place: Path) -> None:
    from engine.errors import UsageError

    if place.exists():
        raise UsageError(
            f"{printable(place)} exists already.", "Name another file with --output.", code="output-exists"
        )


def dataset_toml(datasets: Mapping[str, Any], title: str) -> str:
    """The text of a dataset configuration."""
    import tomlkit

    return f"# {title}\n\n{tomlkit.dumps(datasets)}"


def _checked(path: Path) -> tuple[RunConfig | None, LoraSmithError | None]:
    """The configuration, or why a run with it would be refused."""
    from engine.config import load_config
    from engine.errors import LoraSmithError
    from tui.setup.preflight import check_settings

    try:
        config = load_config(path)
        check_settings(config)
    except LoraSmithError as error:
        return None, error
    return config, None


def _marked(entries: Sequence[Entry], refusal: LoraSmithError | None) -> list[Entry]:
    """The entries, with those that the refusal names marked as not supported."""
    named = "" if refusal is None else str(refusal)
    return [
        replace(entry, status="not supported", text="refused, for the reason below")
        if entry.status != "not supported" and entry.target.count(".") and re.search(rf"{entry.target}\b", named)
        else entry
        for entry in entries
    ]


def report(conversion: Conversion) -> list[str]:
    """The keys of a file by status, each with its setting here and the reason; only long values exceed 80 columns."""
    lines = []
    for status in ORDER:
        for entry in conversion.entries:
            if entry.status == status:
                to = f" → {entry.target}" if entry.target else ""
                line = f"{status:{INDENT}}{entry.key} = {entry.value}"
                fits = len(line) + len(to) <= 80
                lines += [f"{line}{to}"] if fits else [line, f"{'':{INDENT}}{to.lstrip()}"]
                lines += _below(entry.text)
    if conversion.unset:
        names = _below(", ".join(conversion.unset))
        lines.append(f"{'left out':{INDENT}}{names[0].lstrip()}")
        lines += [*names[1:], *_below("empty, off or 0 in the file: they change nothing")]
    return lines


def _below(text: str) -> list[str]:
    return [f"{'':{INDENT}}{line}" for line in textwrap.wrap(text, 80 - INDENT)]
