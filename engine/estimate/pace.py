"""How long a run will take: from earlier runs on this machine, else roughly from the GPU's speed, else unknown."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.config.training_size import largest_batch, training_size
from engine.errors import LoraSmithError
from engine.runs.events import Event, MeasuresEvent, PhaseEvent, StepEvent, ValidationEvent
from engine.runs.find import KnownRun
from engine.runs.identity import host
from engine.runs.tail import latest_events
from engine.text import printable, two_digits

if TYPE_CHECKING:
    from engine.config.resolve import ResolvedConfig
    from engine.dataset.arithmetic import StepPlan
    from engine.families.resolved import ResolvedRun
    from engine.hardware import Gpu
    from engine.types import Recognition

NEWEST = 20
"""Number of runs that are read."""
FEWEST_STEPS = 5
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_SAME_SIZE = 1.5
"""Runs whose checkpoints' parameter counts differ by more than this factor are not compared."""
_CHECKPOINTING = 4 / 3
"""Two forward passes and a backward pass instead of one and a backward pass."""
_TRAIN_FORWARDS = 3
"""A training step of a LoRA costs about as much as three forward passes: the backward pass counts two."""
_SHARE_OF_PEAK = 0.3
"""Share of a GPU's fp32 peak that a small batch in half precision reaches: between 0.2 and 0.5 on the measured
cards."""


@dataclass(frozen=True)
class OutputTimes:
    """What a run's outputs take, as an earlier run's events have it; None what they do not have."""

    check_pass: float | None = None
    """Seconds of a forward pass of measuring the weights, with what comes with it."""
    sample_pass: float | None = None
    """Seconds of a forward pass of generating samples, with decoding, writing and comparing them."""
    save: float | None = None
    """Seconds of saving a file and checking it."""

    def scaled(self, factor: float) -> OutputTimes:
        """For images that need so many times the work."""
        checks, samples = (None if s is None else s * factor for s in (self.check_pass, self.sample_pass))
        return OutputTimes(checks, samples, self.save)


@dataclass(frozen=True)
class MeasuredRun:
    """The pace of an earlier run, with what decides whether it applies to a new one."""

    name: str
    created: float
    seconds_per_step: float
    config: ResolvedConfig
    """The resolved settings."""
    family: str
    parameters: float
    on_gpu: bool
    outputs: OutputTimes = OutputTimes()


@dataclass(frozen=True)
class Pace:
    """Seconds per step, and where the figure comes from."""

    seconds_per_step: float | None
    source: str
    """For the user: "from run smithy of 12 Nov: 0.42 s a step", "rough, ...", "unknown until the first steps"."""
    outputs: OutputTimes = OutputTimes()

    def seconds(self, config: ResolvedConfig, plan: StepPlan, passes: Sequence[int]) -> tuple[float, float] | None:
        """Seconds for the steps and for the samples; None while the pace is unknown.

        Args:
            passes: forward passes of the sample of each prompt.
        """
        if self.seconds_per_step is None:
            return None
        seconds_per_pass = self.outputs.sample_pass
        if seconds_per_pass is None:
            seconds_per_image = self.seconds_per_step / (plan.batch_size * plan.gradient_accumulation_steps)
            seconds_per_pass = seconds_per_image / _TRAIN_FORWARDS
        samples = seconds_per_pass * sum(passes) * _rounds(config, plan)
        return self.seconds_per_step * plan.max_train_steps, samples


def measured_runs(runs: Iterable[KnownRun]) -> list[MeasuredRun]:
    """The pace of the newest runs on this machine, the newest first. Reads little of each."""
    newest = [run for run in list(runs)[:NEWEST] if run.state.state != "damaged"]
    measured = (_measure(run) for run in newest if run.run_dir.meta.get("host") == host())
    return [run for run in measured if run is not None]


def pace(run: ResolvedRun, gpu: Gpu | None, measured: Sequence[MeasuredRun]) -> Pace:
    """The pace of a run.

    Args:
        gpu: the run's GPU; None is the CPU.
        measured: from `measured_runs`.
    """
    config, recognition = run.config, run.recognition
    work, size = _work(config), _parameters(recognition)
    near = [
        other
        for other in measured
        if other.family == recognition.family
        and other.on_gpu == (gpu is not None)
        and max(size, other.parameters) < _SAME_SIZE * min(size, other.parameters)
    ]
    if near:
        best = min(near, key=lambda other: (*_distance(config, other.config), -other.created))
        factor = work / _work(best.config)
        seconds = best.seconds_per_step * factor
        day = time.strftime("%d %b", time.localtime(best.created)).lstrip("0")
        scaled = "" if 0.99 < factor < 1.01 else f", scaled by {two_digits(factor)} for the other size or batch"
        source = f"from run {printable(best.name)} of {day}: {two_digits(seconds)} s a step{scaled}"
        return Pace(seconds, source, best.outputs.scaled(_area(config) / _area(best.config)))
    peak = gpu.peak_flops if gpu is not None else None
    cost = run.family.spec.cost
    if gpu is not None and peak and cost is not None:
        flops = cost.flops * _TRAIN_FORWARDS * size / cost.parameters * work
        seconds = flops / (peak * _SHARE_OF_PEAK)
        return Pace(seconds, f"rough, by arithmetic for {printable(gpu.name)}: {two_digits(seconds)} s a step")
    return Pace(None, "unknown until the first steps")


def _work(config: ResolvedConfig) -> float:
    """Images of 512 x 512 in a step of one process, weighted by what a step does with them."""
    images = largest_batch(config) * config.training.gradient_accumulation_steps
    return _area(config) * images * (_CHECKPOINTING if config.memory.gradient_checkpointing else 1)


def _area(config: ResolvedConfig) -> float:
    """The size of an image, in images of 512 x 512."""
    width, height = training_size(config)
    return width * height / 512**2


def _distance(config: ResolvedConfig, other: ResolvedConfig) -> tuple[bool, float]:
    """How little another run's pace applies to this one: another number of processes, then the ratio of their work."""
    other_processes = config.training.processes != other.training.processes
    return other_processes, abs(math.log(_work(config) / _work(other)))


def _rounds(config: ResolvedConfig, plan: StepPlan) -> int:
    """How often samples are generated: at the end too."""
    sampling = config.sampling
    interval = (sampling.sample_every_n_epochs or 0) * plan.updates_per_epoch or sampling.sample_every_n_steps
    return math.ceil(plan.max_train_steps / interval) + sampling.sample_at_first if interval else 0


def _parameters(recognition: Recognition) -> float:
    return recognition.size / _BYTES.get(recognition.dtype, 2)


def _measure(run: KnownRun) -> MeasuredRun | None:
    """The pace of a run; None if it is unknown: too few steps, moved files, settings of another version."""
    from engine.config import load_config
    from engine.families.resolved import resolve_run

    latest = list(latest_events(run.run_dir.events_path))
    steps = [event for event in latest if isinstance(event, StepEvent)]
    seconds = [pace for event in steps if (pace := event.seconds_per_step) is not None and pace > 0]
    if len(seconds) < FEWEST_STEPS:
        return None
    try:
        resolved = resolve_run(run.run_dir.with_own_datasets(load_config(run.run_dir.config_path)))
    except (LoraSmithError, OSError):
        return None
    return MeasuredRun(
        run.name,
        run.created,
        statistics.median(seconds),
        resolved.config,
        resolved.recognition.family,
        _parameters(resolved.recognition),
        on_gpu="allocated_gib" in steps[0].memory,
        outputs=_output_times(latest, resolved),
    )


def _output_times(latest: Sequence[Event], run: ResolvedRun) -> OutputTimes:
    """From the newest events of a run, the newest first."""
    checks = [event for event in latest if isinstance(event, ValidationEvent | MeasuresEvent)]
    timed = [(event.seconds, event.passes) for event in checks if event.seconds and event.passes]
    check_pass = sum(seconds for seconds, _ in timed) / sum(number for _, number in timed) if timed else None
    saves, sampled = _phases(latest, "save"), _phases(latest, "sample")
    sample_pass = None
    with suppress(LoraSmithError, OSError):  # its file of prompts is gone
        if sampled and (passes := sum(prompt.passes for prompt in run.prompts())):
            sample_pass = statistics.fmean(sampled) / passes
    return OutputTimes(check_pass, sample_pass, statistics.fmean(saves) if saves else None)


def _phases(latest: Sequence[Event], name: str) -> list[float]:
    """How long each phase of that name took."""
    seconds: list[float] = []
    ended: float | None = None
    for event in latest:
        if isinstance(event, PhaseEvent) and event.name == name:
            if event.state == "start" and ended is not None:
                seconds.append(max(0.0, ended - event.time))
            ended = event.time if event.state == "end" else None
    return seconds
