"""Checks before a run, before anything is written: the same for `--dry-run` and for the start itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import UsageError
from engine.text import plural, printable

if TYPE_CHECKING:
    from engine.adapters.selection import Selection
    from engine.config import RunConfig
    from engine.config.prompts import Prompt
    from engine.config.resolve import ResolvedConfig
    from engine.dataset.arithmetic import StepPlan
    from engine.dataset.caption_check import CaptionCheck
    from engine.dataset.images import Scan
    from engine.estimate.disk import DiskNeed
    from engine.families.resolved import ResolvedRun
    from engine.types import Progress, Recognition


@dataclass(frozen=True)
class Preflight:
    """A run that can start, and what is known about it."""

    run: ResolvedRun
    """With absolute paths."""
    images: Scan
    plan: StepPlan
    directory: Path
    changes: tuple[str, ...]
    """Settings that the run changes, each with the reason."""
    precision: str
    """What it computes in, with the reason."""
    need: DiskNeed
    prompts: tuple[Prompt, ...]
    """Of its samples."""
    disk_warning: str | None
    captions: CaptionCheck
    selection: Selection
    """The layers that it trains."""

    @property
    def config(self) -> ResolvedConfig:
        """As it will really run."""
        return self.run.config

    @property
    def recognition(self) -> Recognition:
        """Of its checkpoint, with what `[model]` decides."""
        return self.run.recognition

    @property
    def settings(self) -> tuple[str, ...]:
        """What was decided, with the reasons, and what it needs of the disk."""
        warning = (self.disk_warning,) if self.disk_warning else ()
        measuring = (self.measuring,) if self.measuring else ()
        return (*self.changes, self.precision, *measuring, *self.need.lines(self.directory), *warning)

    @property
    def num_validation(self) -> int:
        """Images that are set aside."""
        return sum(len(subset.images) for subset in self.images.validation_subsets)

    @property
    def measuring(self) -> str:
        """How often and on what the weights are measured, and what that takes; empty where they are not."""
        from engine.results.check_plan import checks_of

        checks = checks_of(self.config, self.plan, self.images)
        return checks.text if checks and checks.steps else ""


def preflight(config: RunConfig, *, restart: bool = False, progress: Progress | None = None) -> Preflight:
    """Check everything that can be checked without torch; writes nothing, neither to the disk nor to a stream.

    Args:
        config: of the shell or the draft.
        restart: an unfinished run in its place is no obstacle.
        progress: called with (read, total) images.

    Raises:
        LoraSmithError: what the person must fix.
    """
    from engine import clock
    from engine.adapters.selection import select_of_run
    from engine.adapters.start import check_base_weights, check_start
    from engine.adapters.written_names import check_key_format
    from engine.config.loggers import used_loggers
    from engine.config.unused import AUTOMATIC_VALIDATION
    from engine.dataset.caption_check import check_captions
    from engine.estimate.disk import estimate
    from engine.families.registry import recognise
    from engine.families.resolved import resolve_run
    from engine.runs.prepare import absolute_paths, check_place, require_utf8

    clock.now()
    written = absolute_paths(config)
    require_utf8(written)
    run = resolve_run(written, recognise(written.model.pretrained_model_name_or_path))
    config, notes = run.config, list(run.notes)
    precision = _check_together(run, notes)
    notes += used_loggers(config.logging).notes
    notes += _check_thumbnail(config)
    notes += check_key_format(config, run.family.spec)
    check_base_weights(config, run.family.spec.lora_base)
    notes += check_start(config, run.family)
    selection = select_of_run(run)
    directory = check_place(config, restart=restart)
    _check_folders(config)
    prompts = run.prompts(notes.append)
    images, plan = _images(run, progress)
    if not images.validation_subsets:
        notes = [note for note in notes if AUTOMATIC_VALIDATION not in note]
    notes += _never(config, plan)
    captions = check_captions(config, images, run.recognition)
    need = estimate(run, plan, len(prompts))
    place = next(path for path in (directory, *directory.parents) if path.exists())
    return Preflight(
        run,
        images,
        plan,
        directory,
        tuple(notes),
        precision,
        need,
        tuple(prompts),
        need.check(place),
        captions,
        selection,
    )


def _check_together(run: ResolvedRun, notes: list[str]) -> str:
    """What settings, model and machine have against each other, all of it at once; the precision with its reason.

    Raises:
        LoraSmithError: with every problem.
    """
    from engine.config.optimizers import check_training
    from engine.dataset.buckets import BucketGrid
    from engine.errors import check_all
    from engine.hardware import require_processors, usable_gpus

    config, precision = run.config, ""

    def choose() -> None:
        nonlocal precision
        precision = _precision(config, notes)

    check_all(
        lambda: run.family.check(config, run.recognition),
        lambda: check_training(config.training),
        lambda: require_processors(config.training.processes, config.memory.device, usable_gpus()),
        lambda: BucketGrid.of_run(run),
        choose,
    )
    return precision


def _never(config: RunConfig, plan: StepPlan) -> list[str]:
    """A sentence about each change during the run whose step it never reaches."""
    from engine.config.changes import changes_of

    length = plural(plan.max_train_steps, "step")
    return [
        f"The change of {change.key} after step {change.step} never happens: the run has {length}."
        for change in changes_of(config)
        if change.step >= plan.max_train_steps
    ]


def check_settings(config: RunConfig) -> None:
    """Check the settings of a converted file, independent of its images.

    Its paths may be those of another machine: only existing ones are checked. Where the model does not exist, the
    checks of its family need `model.family`.

    Raises:
        LoraSmithError: what a run would refuse.
    """
    from engine.adapters.selection import select_of_run
    from engine.adapters.start import check_base_weights, check_start
    from engine.adapters.written_names import check_key_format
    from engine.config.form import PROMPT_FILES
    from engine.config.optimizers import check_training
    from engine.dataset.buckets import BucketGrid
    from engine.errors import check_all
    from engine.families.registry import recognise
    from engine.families.resolved import family_of_settings, reference_model, resolve_run
    from engine.paths import expanded

    model = config.model.pretrained_model_name_or_path
    is_here = model and expanded(model).exists()
    run = resolve_run(config, recognise(expanded(model)) if is_here else reference_model(config))
    config = run.config
    is_known = is_here or family_of_settings(config) is not None
    check_all(lambda: check_training(config.training), lambda: BucketGrid.of_run(run))
    check_key_format(config, run.family.spec)
    if config.network.network_weights and expanded(config.network.network_weights).exists():
        check_start(config, run.family if is_known else None)
    if all(expanded(name).exists() for name in config.model.base_weights):
        check_base_weights(config, run.family.spec.lora_base if is_known else None)
    select_of_run(run)
    prompts = config.sampling.sample_prompts
    if not isinstance(prompts, str) or not prompts.lower().endswith(PROMPT_FILES) or expanded(prompts).exists():
        run.prompts()


def refused_here(config: RunConfig) -> str:
    """Why this machine cannot compute in the precision of a configuration that is right elsewhere; empty if it can."""
    from engine.errors import LoraSmithError

    try:
        _precision(config, [])
    except LoraSmithError as error:
        return str(error)
    return ""


def missing_paths(config: RunConfig) -> list[str]:
    """Paths of the configuration that do not exist here: "network.network_weights = /a/b"; hub ids and
    prompts are no paths."""
    import os

    from engine.config.form import PROMPT_FILES
    from engine.models.hub.cache import is_hub_id
    from engine.paths import expanded
    from engine.runs.prepare import NEW_PATHS, path_values
    from engine.text import printable

    missing = []
    for table, key, value in path_values(config):
        if not value or key in NEW_PATHS or is_hub_id(value):
            continue
        no_path = value.startswith("data:") if key == "metadata_thumbnail" else False
        if key == "sample_prompts":
            no_path = not value.lower().endswith(PROMPT_FILES)
        if not no_path and not os.path.lexists(expanded(value)):
            missing.append(f"{table}.{key} = {printable(value)}")
    return missing


def _check_thumbnail(config: RunConfig) -> list[str]:
    """Refuse a thumbnail that cannot be read; returns a note about one that can."""
    from engine.dataset.thumbnail import thumbnail

    if not config.saving.metadata_thumbnail:
        return []
    thumbnail(config.saving.metadata_thumbnail)
    source = printable(config.saving.metadata_thumbnail)[:200]
    return [f"A small copy of {source} is embedded in the LoRA file, as its thumbnail."]


def _check_folders(config: RunConfig) -> None:
    """Check that the folders of caches and logs exist or can be made."""
    from engine.paths import expanded
    from engine.runs.prepare import check_folder

    memory = config.memory
    if memory.cache_dir and (memory.cache_latents_to_disk or memory.cache_text_encoder_outputs_to_disk):
        check_folder(expanded(memory.cache_dir), "memory.cache_dir")
    if config.logging.logging_dir:
        check_folder(expanded(config.logging.logging_dir), "logging.logging_dir")


def _images(run: ResolvedRun, progress: Progress | None) -> tuple[Scan, StepPlan]:
    from engine.config.changes import at_the_end
    from engine.dataset.arithmetic import plan_steps
    from engine.dataset.buckets import BucketGrid
    from engine.dataset.scan import scan

    grid, images = BucketGrid.of_run(run), scan(run.config, progress)
    return images, plan_steps(images, grid, at_the_end(run.config))


def _precision(config: RunConfig, notes: list[str]) -> str:
    """What it computes in, and why; a GPU that the installed PyTorch cannot use goes to `notes`."""
    from engine.hardware import choose_precision, gpu_of, list_gpus, versions
    from engine.hardware.abilities import require_products
    from engine.hardware.torch_build import torch_build

    device, report = config.memory.device, list_gpus()
    visible = report.visible()
    gpu = gpu_of(device, visible)
    if not visible and "rocm" in str(versions().get("torch")):
        return "Precision: decided at the start, this torch is for AMD GPUs."
    if device.startswith("cuda") and gpu is None:
        have = f"only {len(visible)} GPU{'s are' if len(visible) > 1 else ' is'}" if visible else "no GPU is"
        why = f": {report.problem.rstrip('.')}" if report.problem else ""
        raise UsageError(
            f"memory.device={device}, but {have} found here{why}.",
            "Set memory.device=cpu, or fix the driver.",
            code="no-gpu",
        )
    trouble = torch_build().trouble(report, gpu) if gpu is not None else None
    if trouble is not None and device.startswith("cuda"):
        raise UsageError(
            f"memory.device={device}, but {trouble[0]}",
            f"Set memory.device=cpu. {trouble[1]}",
            code="device-not-usable",
        )
    if trouble is not None:
        notes.append(" ".join(trouble))
        gpu = None
    choice = choose_precision(config.memory.mixed_precision, gpu)
    if gpu is not None:
        require_products(config.memory.base_precision, gpu.name, gpu.compute_capability)
    return f"Precision: {choice.text}."
