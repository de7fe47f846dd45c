"""`lorasmith info`: versions, processor, GPUs, and the precision that a run would use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from engine.exit_codes import ExitCode
from engine.text import printable, size_text
from tui.commands.version import version_lines
from tui.shell import output

if TYPE_CHECKING:
    from engine.hardware import GpuReport
    from engine.hardware.system import System
    from engine.hardware.torch_build import TorchBuild


@click.command("info")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(as_json: bool) -> int:
    """Show what this machine has."""
    from engine.hardware import choose_precision, list_gpus, versions
    from engine.hardware.system import read_system
    from engine.hardware.torch_build import torch_build

    report, system, build = list_gpus(), read_system(), torch_build()
    visible = report.visible()
    usable = bool(visible) and build.obstacle(report) is None
    choice = choose_precision("auto", visible[0] if usable else None)
    if as_json:
        gpus = asdict(report)
        precision = {"value": choice.value, "reason": choice.reason}
        warnings = [line.removeprefix("! ") for line in _warnings(report, build)]
        output.json_result(
            {"versions": versions(), "system": asdict(system), **gpus, "warnings": warnings, "precision": precision}
        )
        return ExitCode.DONE
    for line in (*_warnings(report, build), *version_lines(), *_system_lines(system), *_gpu_lines(report)):
        output.result(printable(line))
    output.result(f"Precision: {choice.text}")
    return ExitCode.DONE


def _system_lines(system: System) -> Iterator[str]:
    yield f"{system.os}, {system.cpu}, {system.cores} cores, {system.threads} threads"
    where = "container" if system.container else "machine"
    yield f"Memory of this {where}: {size_text(system.memory_total)}, {size_text(system.memory_free)} free"


def _gpu_lines(report: GpuReport) -> Iterator[str]:
    from tui.text.hardware import MIG, hidden, vram_amounts

    if report.problem:
        yield f"GPU: {report.problem}"
    for gpu in report.gpus:
        yield f"GPU {gpu.index}: {gpu.name}" + (f", {vram_amounts(gpu)}" if gpu.total is not None else "")
        if gpu.mig:
            yield f"  MIG {MIG}"
        if gpu in hidden(report):
            yield "  hidden by CUDA_VISIBLE_DEVICES"
        for program in gpu.programs:
            yield f"  in use by {program.name or 'process'} ({program.pid}): {size_text(program.bytes)}"


def _warnings(report: GpuReport, build: TorchBuild) -> Iterator[str]:
    """What keeps the installed PyTorch from using the GPUs, or some of them; in the words of the step Hardware."""
    obstacle = build.obstacle(report) if report.gpus else None
    if obstacle is not None:
        yield f"! {' '.join(obstacle)}"
        return
    for gpu in report.gpus:
        trouble = build.too_new_for(gpu)
        if trouble is not None:
            yield f"! GPU {gpu.index}: {' '.join(trouble)}"
