"""`lorasmith info`: versions, processor, GPUs, and which precision follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from engine.exit_codes import ExitCode
from engine.text import size_text
from tui import output
from tui.commands.version import version_lines

if TYPE_CHECKING:
    from engine.hardware import Gpu, GpuReport
    from engine.hardware.system import System


@click.command("info")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(as_json: bool) -> int:
    """Show what this machine has."""
    from engine.hardware import choose_precision, list_gpus, versions
    from engine.hardware.system import look

    report, system = list_gpus(), look()
    visible = report.visible()
    choice = choose_precision("auto", visible[0] if visible else None)
    if as_json:
        gpus = asdict(report)
        precision = {"value": choice.value, "reason": choice.reason}
        output.json_result({"versions": versions(), "system": asdict(system), **gpus, "precision": precision})
        return ExitCode.DONE
    for line in (*version_lines(), *_system_lines(system), *_gpu_lines(report)):
        output.result(line)
    output.result(f"Precision {choice.value}: {choice.reason}.")
    return ExitCode.DONE


def _system_lines(system: System) -> Iterator[str]:
    yield f"{system.os}, {system.cpu}, {system.cores} cores, {system.threads} threads"
    where = "container" if system.container else "machine"
    yield f"Memory of this {where}: {size_text(system.memory_total)}, {size_text(system.memory_free)} free"


def _gpu_lines(report: GpuReport) -> Iterator[str]:
    if report.problem:
        yield f"GPU: {report.problem}"
    for gpu in report.gpus:
        yield f"GPU {gpu.index}: {gpu.name}{_memory(gpu)}"
        for program in gpu.programs:
            yield f"  in use by {program.name or 'process'} ({program.pid}): {size_text(program.bytes)}"


def _memory(gpu: Gpu) -> str:
    return "" if gpu.total is None else f", {size_text(gpu.total)}, {size_text(gpu.free)} free"
