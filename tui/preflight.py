"""What stops a run, found before anything is written: `--dry-run` and the start itself ask the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import UsageError

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.arithmetic import StepPlan
    from engine.dataset.pictures import Scan
    from engine.dataset.pool import Progress
    from engine.models.base import Recognition
    from engine.runs.disk import DiskNeed


@dataclass(frozen=True)
class Preflight:
    """A run that can start, and what is known about it."""

    config: RunConfig
    """As it will really run: paths absolute, contradictions resolved."""
    recognition: Recognition
    pictures: Scan
    plan: StepPlan
    directory: Path
    changes: tuple[str, ...]
    """Settings that will not run as they were given, each with the reason."""
    precision: str
    """What it computes in, with the reason."""
    need: DiskNeed
    num_prompts: int
    disk_warning: str | None

    @property
    def settings(self) -> tuple[str, ...]:
        """What was decided, with the reasons, and what it needs of the disk."""
        warning = (self.disk_warning,) if self.disk_warning else ()
        return (*self.changes, self.precision, *self.need.lines(self.directory), *warning)


def preflight(config: RunConfig, *, restart: bool = False, progress: Progress | None = None) -> Preflight:
    """Check everything that can be checked without torch; writes nothing, neither to the disk nor to a stream.

    Args:
        config: as read or as drafted.
        restart: an unfinished run in its place is no obstacle.
        progress: told (read, total) pictures.

    Raises:
        LoraSmithError: what the person must mend.
    """
    from engine import clock
    from engine.config import resolve
    from engine.config.optimizers import check_training
    from engine.config.prompts import read_prompts
    from engine.config.resolve import check_model
    from engine.models.registry import family_named, recognise
    from engine.runs.disk import estimate
    from engine.runs.prepare import absolute_paths, check_place, require_utf8

    clock.now()
    config = absolute_paths(config)
    require_utf8(config)
    recognition = recognise(config.model.pretrained_model_name_or_path)
    family = family_named(recognition.family)
    config, settled = family.settle(config, recognition)
    config, resolved = resolve(config, partial_text_cache=family.partial_text_cache)
    notes = [*settled, *resolved]
    check_model(config, recognition)
    family.check(config, recognition)
    recognition = family.in_force(config, recognition)
    check_training(config.training)
    _check_start(config, recognition)
    directory = check_place(config, restart=restart)
    _check_cache(config)
    prompts = read_prompts(config, notes.append, family.prompt_flags)
    precision = _precision(config)
    pictures, plan = _pictures(config, recognition, progress)
    need = estimate(config, recognition, plan, len(prompts))
    place = next(path for path in (directory, *directory.parents) if path.exists())
    return Preflight(
        config, recognition, pictures, plan, directory, tuple(notes), precision, need, len(prompts), need.check(place)
    )


def _check_start(config: RunConfig, recognition: Recognition) -> None:
    """The LoRA to start from: readable, in a format that is taken, sound, of this family as far as its names tell."""
    if config.network.network_weights is None:
        return
    from engine.adapters.defects import check_start
    from engine.models.registry import family_named
    from engine.runs.layout import expanded

    check_start(expanded(config.network.network_weights), family_named(recognition.family).lora_base)


def _check_cache(config: RunConfig) -> None:
    """The cache folder is there or can be made."""
    from engine.runs.layout import expanded
    from engine.runs.prepare import check_folder

    memory = config.memory
    if memory.cache_dir and (memory.cache_latents_to_disk or memory.cache_text_encoder_outputs_to_disk):
        check_folder(expanded(memory.cache_dir), "memory.cache_dir")


def _pictures(config: RunConfig, recognition: Recognition, progress: Progress | None) -> tuple[Scan, StepPlan]:
    from engine.dataset.arithmetic import plan_steps
    from engine.dataset.buckets import BucketGrid
    from engine.dataset.scan import scan

    grid = BucketGrid.from_config(config, multiple=recognition.multiple, downscale=recognition.downscale)
    found = scan(config, progress)
    return found, plan_steps(found, grid, config)


def _precision(config: RunConfig) -> str:
    from engine.hardware import choose_precision, list_gpus, versions

    device, report = config.memory.device, list_gpus()
    visible = report.visible()
    index = int(device.partition(":")[2] or 0)
    if not visible and "rocm" in str(versions().get("torch")):
        return "Precision: decided at the start, this torch is for AMD GPUs."
    if device.startswith("cuda") and index >= len(visible):
        found = f"only {len(visible)} GPU{'s are' if len(visible) > 1 else ' is'}" if visible else "no GPU is"
        why = f": {report.problem.rstrip('.')}" if report.problem else ""
        raise UsageError(
            f"memory.device={device}, but {found} found here{why}.", "Set memory.device=cpu, or mend the driver."
        )
    gpu = visible[index] if device != "cpu" and index < len(visible) else None
    choice = choose_precision(config.memory.mixed_precision, gpu)
    return f"Precision {choice.value}: {choice.reason}."
