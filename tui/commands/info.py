"""`lorasmith info`: versions, processor, GPUs, and the precision that a run would use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from engine.exit_codes import ExitCode
from engine.text import printable
from tui.commands.version import version_lines
from tui.shell import output

if TYPE_CHECKING:
    from engine.hardware import GpuReport
    from tui.text.hardware import Surroundings


@click.command("info")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(as_json: bool) -> int:
    """Show what this machine has."""
    from engine.hardware import choose_precision, list_gpus, versions
    from tui.text.hardware import Surroundings, warnings

    report, around = list_gpus(), Surroundings.read()
    visible = report.visible()
    usable = bool(visible) and around.build.obstacle(report) is None
    choice = choose_precision("auto", visible[0] if usable else None)
    if as_json:
        texts = [" ".join(warning) for warning in warnings(report, around.build)]
        system, gpus = asdict(around.system), asdict(report)
        precision = {"value": choice.value, "reason": choice.reason}
        output.json_result(
            {"versions": versions(), "system": system, **gpus, "warnings": texts, "precision": precision}
        )
        return ExitCode.DONE
    for line in lines(report, around):
        output.result(printable(line))
    output.result(f"Precision: {choice.text}")
    return ExitCode.DONE


def lines(report: GpuReport, around: Surroundings) -> Iterator[str]:
    """What the step Hardware shows, as lines: what leaves a GPU unused first, with its remedy."""
    from tui.text.hardware import gpu_facts, gpu_title, headline, machine_facts, warnings

    troubles = warnings(report, around.build)
    yield from (f"! {' '.join(trouble)}" for trouble in troubles)
    yield from version_lines()
    yield around.system.os
    system = around.system
    for title, text in machine_facts(around, system.memory_total, system.memory_free):
        yield f"{title}: {text}"
    yield from headline(report, around.build)[len(troubles) :]
    for gpu in report.gpus:
        yield gpu_title(gpu)
        for title, text in gpu_facts(gpu):
            yield f"  {title}: {text}"
