"""What stops a run, found before anything is written: `--dry-run` and the start itself ask the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import UsageError
from engine.text import printable

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.arithmetic import StepPlan
    from engine.dataset.caption_check import CaptionCheck
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
    captions: CaptionCheck

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
    from engine.adapters.start import check_start
    from engine.config.optimizers import check_training
    from engine.config.prompts import read_prompts
    from engine.config.resolve import check_model
    from engine.dataset.caption_check import check_captions
    from engine.dataset.thumbnail import thumbnail
    from engine.models.registry import family_named, recognise
    from engine.runs.disk import estimate
    from engine.runs.prepare import absolute_paths, check_place, require_utf8

    clock.now()
    config = absolute_paths(config)
    require_utf8(config)
    recognition = recognise(config.model.pretrained_model_name_or_path)
    family = family_named(recognition.family)
    config, notes = settle(config, recognition)
    check_model(config, recognition)
    family.check(config, recognition)
    recognition = family.in_force(config, recognition)
    check_training(config.training)
    if config.saving.metadata_thumbnail:
        thumbnail(config.saving.metadata_thumbnail)
        shown = printable(config.saving.metadata_thumbnail)[:200]
        notes.append(f"A small copy of {shown} is embedded in the LoRA file, as its thumbnail.")
    check_start(config, family.lora_base)
    directory = check_place(config, restart=restart)
    _check_cache(config)
    prompts = read_prompts(config, notes.append, family.prompt_flags)
    precision = _precision(config, notes)
    pictures, plan = _pictures(config, recognition, progress)
    captions = check_captions(config, pictures, recognition)
    need = estimate(config, recognition, plan, len(prompts))
    place = next(path for path in (directory, *directory.parents) if path.exists())
    return Preflight(
        config, recognition, pictures, plan, directory, tuple(notes), precision, need, len(prompts), need.check(place),
        captions,
    )  # fmt: skip


def settle(config: RunConfig, recognition: Recognition) -> tuple[RunConfig, list[str]]:
    """The configuration that will really run with this model, and a sentence for each setting that is changed or idle.

    Raises:
        UsageError: a contradiction that only the person can resolve.
    """
    from engine.config import resolve
    from engine.models.registry import family_named

    family = family_named(recognition.family)
    config, settled = family.settle(config, recognition)
    config, resolved = resolve(config, partial_text_cache=family.partial_text_cache)
    return config, [*settled, *resolved]


def check_settings(config: RunConfig) -> None:
    """What a run with these settings would refuse, whatever its images are; for a converted file.

    Its paths may be those of another machine: only what is there is looked at. Where the model is not, the checks of
    its family are made as far as `model.family` tells it.

    Raises:
        LoraSmithError: the sentence of the run.
    """
    from engine.adapters.start import check_start
    from engine.config import resolve
    from engine.config.form import PROMPT_FILES
    from engine.config.optimizers import check_training
    from engine.config.prompts import read_prompts
    from engine.config.resolve import check_model
    from engine.dataset.buckets import BucketGrid
    from engine.models.registry import families, family_named, recognise
    from engine.runs.layout import expanded

    check_training(config.training)
    model = config.model.pretrained_model_name_or_path
    recognition = recognise(expanded(model)) if model and expanded(model).exists() else None
    name = recognition.family if recognition else config.model.family
    if name == "auto" and config.network.network_module == "networks.lora_flux":
        name = "flux"
    family = family_named(name) if name in {one.name for one in families()} else None
    known = recognition or (family.of_real_size() if family else None)
    if family is not None and known is not None:
        config, _ = family.settle(config, known)
    config, _ = resolve(config, partial_text_cache=family is not None and family.partial_text_cache)
    if recognition is not None:
        check_model(config, recognition)
    if config.network.network_weights and expanded(config.network.network_weights).exists():
        check_start(config, family.lora_base if family else None)
    least = [one.of_real_size() for one in families() if known is None and one.name != "flux"]
    multiple = known.multiple if known else min(one.multiple for one in least)
    downscale = known.downscale if known else min(one.downscale for one in least)
    BucketGrid.from_config(config, multiple=multiple, downscale=downscale)
    prompts = config.sampling.sample_prompts
    if not isinstance(prompts, str) or not prompts.lower().endswith(PROMPT_FILES) or expanded(prompts).exists():
        read_prompts(config, lambda _: None, family.prompt_flags if family else frozenset())


def missing_paths(config: RunConfig) -> list[str]:
    """What the configuration names and this machine does not have: "network.network_weights = /a/b"; hub ids and
    prompts are no paths."""
    import os

    from engine.config.form import PROMPT_FILES
    from engine.models.hub.cache import is_hub_id
    from engine.runs.layout import expanded
    from engine.runs.prepare import NEW_PATHS, PATH_KEYS
    from engine.text import printable

    found = []
    for table, key in PATH_KEYS:
        value = getattr(getattr(config, table), key)
        if not isinstance(value, str) or not value or key in NEW_PATHS or is_hub_id(value):
            continue
        no_path = value.startswith("data:") if key == "metadata_thumbnail" else False
        if key == "sample_prompts":
            no_path = not value.lower().endswith(PROMPT_FILES)
        if not no_path and not os.path.lexists(expanded(value)):
            found.append(f"{table}.{key} = {printable(value)}")
    return found


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


def _precision(config: RunConfig, notes: list[str]) -> str:
    """What it computes in, and why; a GPU that the installed PyTorch cannot use goes to `notes`."""
    from engine.hardware import choose_precision, list_gpus, versions
    from engine.hardware.torch_build import torch_build

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
    trouble = torch_build().trouble(report, gpu) if gpu is not None else None
    if trouble is not None and device.startswith("cuda"):
        raise UsageError(f"memory.device={device}, but {trouble[0]}", f"Set memory.device=cpu. {trouble[1]}")
    if trouble is not None:
        notes.append(" ".join(trouble))
        gpu = None
    choice = choose_precision(config.memory.mixed_precision, gpu)
    return f"Precision {choice.value}: {choice.reason}."
