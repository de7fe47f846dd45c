"""`--dry-run`: everything is checked and shown, nothing is trained and nothing written."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.exit_codes import ExitCode
from tui import output

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.arithmetic import StepPlan
    from engine.models.base import Recognition


def dry_run(config: RunConfig, arguments: Sequence[str], *, restart: bool) -> int:
    """Show what a run with `config` would do; the lines are the result, so they go to stdout.

    Raises:
        LoraSmithError: what would stop the run.
    """
    from engine.config import resolve
    from engine.config.resolve import check_model
    from engine.models.registry import recognise
    from engine.runs.prepare import absolute_paths, check_place, require_utf8

    config, notes = resolve(absolute_paths(config))
    require_utf8(config)
    recognition = recognise(config.model.pretrained_model_name_or_path)
    check_model(config, recognition)
    directory = check_place(config, restart=restart)
    _section("Model", [f"{recognition.family}, {recognition.path}", *recognition.reasons])
    plan, lines = _pictures(config, recognition)
    _section("Pictures", lines)
    _section("Steps", plan.lines())
    _section("Settings", [*notes, _precision(config), *_disk(config, recognition, plan, directory)])
    _section("Result", [str(directory / f"{config.saving.output_name}.safetensors")])
    typed = [argument for argument in arguments if argument != "--dry-run"]
    output.result(f"Nothing was trained or written. To train: lorasmith {shlex.join(typed)}")
    return ExitCode.DONE


def _section(title: str, lines: Sequence[str]) -> None:
    from engine.text import printable

    output.result(title)
    for line in lines:
        output.result(f"  {printable(line)}")


def _pictures(config: RunConfig, recognition: Recognition) -> tuple[StepPlan, list[str]]:
    from engine.dataset.arithmetic import plan_steps
    from engine.dataset.buckets import BucketGrid
    from engine.dataset.scan import scan

    found = scan(config, _counter())
    grid = BucketGrid.from_config(config, multiple=recognition.multiple, downscale=recognition.downscale)
    return plan_steps(found, grid, config), found.lines()


def _counter() -> Callable[[int, int], None]:
    """Progress of the scan on stderr, where that is a terminal and it takes long."""
    shown = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal shown
        if output.is_terminal(sys.stderr) and time.monotonic() - shown > 0.5:
            shown = time.monotonic()
            sys.stderr.write(f"\r\x1b[Kreading pictures: {done} of {total}" + ("\r\x1b[K" if done == total else ""))
            sys.stderr.flush()

    return tell


def _precision(config: RunConfig) -> str:
    from engine.hardware import choose_precision, list_gpus

    visible = list_gpus().visible()
    index = int(config.memory.device.partition(":")[2] or 0)
    gpu = visible[index] if config.memory.device != "cpu" and index < len(visible) else None
    choice = choose_precision(config.memory.mixed_precision, gpu)
    return f"Precision {choice.value}: {choice.reason}."


def _disk(config: RunConfig, recognition: Recognition, plan: StepPlan, directory: Path) -> list[str]:
    from engine.runs.disk import estimate

    prompts = config.sampling.sample_prompts
    return estimate(config, recognition, plan, len(prompts) if isinstance(prompts, list) else 4).lines(directory)
