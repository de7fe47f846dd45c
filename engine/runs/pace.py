"""How long a run will take: from earlier runs on this machine, else a rough figure for the GPU, else unknown."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.config.training_size import largest_batch, training_size
from engine.errors import LoraSmithError
from engine.runs.find import KnownRun
from engine.runs.identity import host
from engine.runs.tail import latest_events
from engine.text import printable

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.arithmetic import StepPlan
    from engine.hardware import Gpu
    from engine.models.base import Recognition

NEWEST = 20
"""Runs that are looked at."""
FEWEST_STEPS = 5
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_SAME_SIZE = 1.5
"""Checkpoints whose parameter counts differ by more than this factor say nothing about each other."""
_CHECKPOINTING = 4 / 3
"""Forward, forward again and backward, in place of forward and backward."""
_FORWARD_FLOPS = 0.7e12
"""Of SD 1.5's UNet for one picture of 512 x 512; it grows with the pixels."""
_TRAIN_FORWARDS = 3
"""A training step of a LoRA costs about as much as three forwards: one, and a backward of two."""
_DRAW_FORWARDS = 2
"""A step of a sampler: with the prompt and without."""
_SHARE_OF_PEAK = 0.3
"""Of a GPU's fp32 peak that a small batch in half precision reaches: between a fifth and a half on the cards known."""
_SD15_PARAMETERS = 1.07e9


@dataclass(frozen=True)
class Measured:
    """What an earlier run tells: it is compared with a new one by its settings."""

    name: str
    created: float
    seconds_per_step: float
    config: RunConfig
    family: str
    parameters: float
    on_gpu: bool


@dataclass(frozen=True)
class Pace:
    """Seconds a step, and where the figure comes from."""

    seconds_per_step: float | None
    source: str
    """For a person: "from run smithy of 12 Nov: 0.42 s a step", "rough, ...", "unknown until the first steps"."""

    def total(self, config: RunConfig, plan: StepPlan, num_prompts: int) -> float | None:
        """Seconds for the steps and for drawing the samples; None while the pace is unknown."""
        if self.seconds_per_step is None:
            return None
        a_picture = self.seconds_per_step / (plan.batch_size * plan.gradient_accumulation_steps)
        draw = a_picture * config.sampling.sample_steps * _DRAW_FORWARDS / _TRAIN_FORWARDS
        return self.seconds_per_step * plan.max_train_steps + draw * num_prompts * _rounds(config, plan)


def earlier(runs: Iterable[KnownRun]) -> list[Measured]:
    """What the newest runs of this machine tell, the newest first. Reads little of each."""
    newest = [run for run in list(runs)[:NEWEST] if run.state.state != "damaged"]
    found = (_measure(run) for run in newest if run.run_dir.meta.get("host") == host())
    return [one for one in found if one is not None]


def pace(
    config: RunConfig,
    recognition: Recognition,
    gpu: Gpu | None,
    measured: Sequence[Measured],
) -> Pace:
    """The pace of a run with `config`.

    Args:
        config: as it will run.
        recognition: of its checkpoint.
        gpu: where it computes; None is the CPU.
        measured: from `earlier`.
    """
    work, size = _work(config), _parameters(recognition)
    near = [
        one
        for one in measured
        if one.family == recognition.family
        and one.on_gpu == (gpu is not None)
        and max(size, one.parameters) < _SAME_SIZE * min(size, one.parameters)
    ]
    if near:
        best = min(near, key=lambda one: (*_distance(config, one.config), -one.created))
        factor = work / _work(best.config)
        seconds = best.seconds_per_step * factor
        day = time.strftime("%d %b", time.localtime(best.created)).lstrip("0")
        scaled = "" if 0.99 < factor < 1.01 else f", scaled by {factor:.2g} for the other size or batch"
        return Pace(seconds, f"from run {printable(best.name)} of {day}: {seconds:.2g} s a step{scaled}")
    peak = gpu.peak_flops if gpu is not None else None
    if gpu is not None and peak and recognition.family == "sd15":
        flops = _FORWARD_FLOPS * _TRAIN_FORWARDS * size / _SD15_PARAMETERS * work
        seconds = flops / (peak * _SHARE_OF_PEAK)
        return Pace(seconds, f"rough, by arithmetic for {printable(gpu.name)}: {seconds:.2g} s a step")
    return Pace(None, "unknown until the first steps")


def _work(config: RunConfig) -> float:
    """Pictures of 512 x 512 in a step of one process, weighted by what a step does with them."""
    width, height = training_size(config)
    pictures = largest_batch(config) * config.training.gradient_accumulation_steps
    return width * height / 512**2 * pictures * (_CHECKPOINTING if config.memory.gradient_checkpointing else 1)


def _distance(config: RunConfig, other: RunConfig) -> tuple[bool, float]:
    """How little another run tells about this one: processes share a machine, and work is only scaled."""
    other_processes = config.training.num_processes != other.training.num_processes
    return other_processes, abs(math.log(_work(config) / _work(other)))


def _rounds(config: RunConfig, plan: StepPlan) -> int:
    """How often the samples are drawn."""
    sampling = config.sampling
    interval = (sampling.sample_every_n_epochs or 0) * plan.updates_per_epoch or sampling.sample_every_n_steps
    return plan.max_train_steps // interval + sampling.sample_at_first if interval else 0


def _parameters(recognition: Recognition) -> float:
    return recognition.size / _BYTES.get(recognition.dtype, 2)


def _measure(run: KnownRun) -> Measured | None:
    """What a run tells; None when it tells nothing: too few steps, moved files, another version's settings."""
    from engine.config import load_config
    from engine.models.registry import recognise

    steps = [event for event in latest_events(run.run_dir.events_path) if event.type == "step"]
    seconds = [pace for event in steps if (pace := event.get("seconds_per_step")) is not None and pace > 0]
    if len(seconds) < FEWEST_STEPS:
        return None
    try:
        config = run.run_dir.with_own_datasets(load_config(run.run_dir.config_path))
        recognition = recognise(config.model.pretrained_model_name_or_path)
    except (LoraSmithError, OSError):
        return None
    return Measured(
        run.name,
        run.created,
        statistics.median(seconds),
        config,
        recognition.family,
        _parameters(recognition),
        on_gpu="allocated_gib" in steps[0].get("memory", {}),
    )
