"""The base model to use a LoRA file with, and the settings that belong to it. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.adapters.metadata import old_model_hash
from engine.adapters.start import check_base_weights
from engine.adapters.usable import check_usable
from engine.config import RunConfig, load_config
from engine.config.resolve import ResolvedConfig
from engine.errors import LoraSmithError, UsageError
from engine.families.base import Family
from engine.families.registry import family_named, recognise
from engine.families.resolved import resolve_run
from engine.models.header import read_header
from engine.runs.find import find_runs
from engine.runs.integrity import fault_of
from engine.runs.layout import RunDir
from engine.text import plural, printable
from engine.types import Recognition

_RESOLUTION = re.compile(r"\(?(\d{2,5}), ?(\d{2,5})\)?")
_NONE = ("", "None", "IsADirectory")


@dataclass(frozen=True)
class Base:
    """The model, and how it is run."""

    config: ResolvedConfig
    """The settings of the run that the file belongs to, else those in the file's metadata."""
    recognition: Recognition
    reason: str
    """Why this model, as a sentence."""
    run_dir: RunDir | None
    """The run that the first file belongs to."""

    @property
    def family(self) -> Family:
        """The model's family."""
        return family_named(self.recognition.family)


def choose_base(
    files: Sequence[Path],
    model: str | None = None,
    used_models: Iterable[str] = (),
    memory: Mapping[str, Any] | None = None,
) -> Base:
    """The base for these files: the `model` that is named, else that of the run that the first file belongs to, else
    the one in its metadata, if it is in a folder of models that were used before.

    Args:
        used_models: paths and hub ids of models that were used before. Those of all known runs are tried too.
        memory: keys of `[memory]` to change.

    Raises:
        UsageError: no model is known for the file; a setting contradicts the model.
        ModelError: a file or the model is unreadable, or they do not belong together.
    """
    run_dir = run_of(files[0])
    metadata = read_header(files[0]).metadata
    if run_dir is not None:
        config = run_dir.with_own_datasets(load_config(run_dir.config_path))
    else:
        config = _by_metadata(metadata)
    if model is not None:
        chosen, reason = model, f"The base is {printable(model)}, as named."
    elif run_dir is not None and config.model.pretrained_model_name_or_path:
        chosen = config.model.pretrained_model_name_or_path
        reason = f"The base is {printable(chosen)}, on which the run {printable(run_dir.name)} was trained."
    else:
        chosen = _named(metadata, used_models, files[0])
        reason = f"The base is {printable(chosen)}, which the metadata of {printable(files[0].name)} name."
    recognition = recognise(chosen)
    family = family_named(recognition.family)
    for file in files:
        check_usable(file, family.spec.lora_base)
    model_table = {"pretrained_model_name_or_path": chosen, "family": "auto"}
    if model is not None and run_dir is not None:  # the run's own parts, and its loss, belong to its own model
        model_table |= dict.fromkeys(("vae", "v_parameterization", "zero_terminal_snr"))  # type: ignore[arg-type]
        if config.model.merged:
            reason += " The LoRA files that the run merged into its own base (base_weights) are not in it."
        config = config.changed(model={"base_weights": [], "base_weights_multiplier": []})
        config = config.changed(training={"scale_v_pred_loss_like_noise_pred": False, "v_pred_like_loss": None})
    config = config.changed(model=model_table, memory={"torch_compile": "off", **(memory or {})})
    if run_dir is None and not _RESOLUTION.fullmatch(metadata.get("ss_resolution", "")):
        config = config.changed(dataset={"resolution": family.spec.native_size})
    if run_dir is None and metadata.get("ss_base_weights", "") not in _NONE:
        reason += " In training other LoRA files were in it (ss_base_weights in `lorasmith inspect`), not here."
    run = resolve_run(config, recognition)
    family.check(run.config, run.recognition)
    check_base_weights(run.config, family.spec.lora_base)
    return Base(run.config, run.recognition, reason, run_dir)


def run_of(file: Path) -> RunDir | None:
    """The run that a LoRA file belongs to; None if its folder is not a run, or a damaged one."""
    run_dir = RunDir(file.parent)
    try:
        return run_dir if run_dir.is_run and not fault_of(run_dir) and run_dir.config_path.is_file() else None
    except OSError:
        return None


def _by_metadata(metadata: Mapping[str, str]) -> RunConfig:
    """Settings for images from the metadata of a file without a run."""
    config = RunConfig()
    skip = metadata.get("ss_clip_skip", "")
    if skip.isdecimal() and 1 <= int(skip) <= 12:
        config = config.changed(model={"clip_skip": int(skip)})
    if size := _RESOLUTION.fullmatch(metadata.get("ss_resolution", "")):
        with suppress(ValueError):  # a size that no run may have
            config = config.changed(dataset={"resolution": [int(size[1]), int(size[2])]})
    return config


def _named(metadata: Mapping[str, str], used_models: Iterable[str], file: Path) -> str:
    """The model that the metadata name, among those used before and the files in their folders.

    Raises:
        UsageError: it is not there.
    """
    name = Path(metadata.get("ss_sd_model_name", "").replace("\\", "/")).name
    digest = metadata.get("ss_sd_model_hash", "")
    hint = "Name the model: --model PATH."
    if name in _NONE and digest in _NONE:
        raise UsageError(
            f"{printable(file)} is not in a run, and its metadata name no model.", hint, code="base-model-unknown"
        )
    tried = 0
    for candidate in _candidates(used_models):
        tried += 1
        if _is_it(candidate, name, digest):
            return candidate
    where = f"{plural(tried, 'model')} of earlier runs searched"
    raise UsageError(
        f"{printable(file)} was trained on {printable(name or digest)}, which is not found ({where}).",
        hint,
        code="base-model-not-found",
    )


def _candidates(used_models: Iterable[str]) -> Iterator[str]:
    """Models that were used, then checkpoints in their folders; each once."""
    models = list(used_models)
    for run in find_runs():
        with suppress(LoraSmithError, OSError):
            models.append(load_config(run.run_dir.config_path).model.pretrained_model_name_or_path)
    used = [model for model in dict.fromkeys(models) if model]
    yield from used
    for folder in dict.fromkeys(Path(model).expanduser().parent for model in used if Path(model).is_absolute()):
        with suppress(OSError):
            for path in sorted(folder.glob("*.safetensors")):
                if str(path) not in used:
                    yield str(path)


def _is_it(candidate: str, name: str, digest: str) -> bool:
    """Whether it is the same model: by the hash of 64 KiB for a file, else by the name."""
    path = Path(candidate).expanduser()
    try:
        if digest not in _NONE and path.is_file():
            return old_model_hash(path) == digest
        return candidate == name or (path.name == name and path.exists())
    except OSError:
        return False
