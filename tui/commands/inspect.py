"""`lorasmith inspect FILE`: what a LoRA file or a checkpoint is, from its header."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from engine.exit_codes import ExitCode
from engine.paths import expanded
from engine.text import printable
from tui.shell import output

if TYPE_CHECKING:
    from engine.adapters.inspect import LoraReport


@click.command("inspect", short_help="Show what a LoRA file holds, and whether readers will load it.")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(file: str, as_json: bool) -> int:
    """Show what the LoRA FILE.safetensors holds, and whether its readers will load it."""
    from engine.adapters.inspect import inspect_lora

    report = inspect_lora(expanded(file))
    if as_json:
        output.json_result(report.as_json())
    else:
        for line in _lines(report):
            output.result(printable(line))
    return ExitCode.BAD_DATA if report.problems else ExitCode.DONE


def _base(report: LoraReport) -> str:
    """The model that it is for; where names and shapes do not show it, the one of the metadata."""
    if report.base != "unknown":
        return report.base
    version, name = (report.metadata.get(key, "") for key in ("ss_base_model_version", "ss_sd_model_name"))
    if not (version or name):
        return "a model of unknown kind or size"
    both = f"{version} ({name})" if version and name else version or name
    return f"{both} according to its metadata"


def _lines(report: LoraReport) -> Iterator[str]:
    from engine.adapters.formats import with_article

    yield f"{report.path}: {with_article(report.kind)} for {_base(report)}, {report.size / 2**20:.1f} MiB"
    if len(report.kinds) > 1:
        yield "kinds: " + ", ".join(f"{kind} ({count})" for kind, count in report.kinds.items())
    if report.maker:
        yield f"made by: {report.maker}"
    yield f"names: {report.naming}"
    yield f"read by: {', '.join(report.readers) or 'no program that is known'}"
    start = "can start from it" if report.kind == "LoRA" else "can start from it where it trains the same kind"
    yield f"training: cannot start from it: {report.no_start}" if report.no_start else f"training: {start}"
    if report.other_way:
        command = report.other_way.replace("FILE", shlex.quote(report.path))
        yield f"a LoRA from it, with its loss: {command}"
    for component, count in report.modules.items():
        total = report.known_modules.get(component)
        yield f"{component}: {count} modules" + (f" of Kohya's {total}" if total else "")
    for what, counts in (("rank", report.ranks), ("alpha", report.alphas), ("number format", report.dtypes)):
        if counts:
            yield f"{what}: " + ", ".join(f"{value} ({count})" for value, count in counts.items())
    for key, value in report.metadata.items():
        yield f"{key}: {value}"
    for note in report.notes:
        yield f"note: {note}"
    for problem in report.problems:
        yield f"problem: {problem}"
