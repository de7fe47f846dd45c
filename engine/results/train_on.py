"""A new run that starts from a LoRA file, with the settings of an earlier run.

Trigger word, prompts and validation images stay those of that run, whatever the new name is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.dataset.trigger import kept_trigger
from engine.errors import UsageError
from engine.paths import expanded
from engine.reading import is_regular, parse_json
from engine.runs.events import read_events
from engine.runs.history import RunHistory, SavedFile
from engine.runs.layout import RunDir, own_files
from engine.runs.resume import next_free_directory
from engine.text import listing, printable

if TYPE_CHECKING:
    from engine.config import RunConfig

_NUMBERED = re.compile(r"\d+_(.+)")
"""Kohya's name of a folder of images: repeats, then the words for images without a caption."""
EPOCHS_MORE = 3
"""The default: a finished LoRA needs two or three epochs more, not a full run."""


@dataclass(frozen=True)
class StartFile:
    """The LoRA to start from."""

    path: Path
    saved: SavedFile | None = None
    """The run's record of it; None for a file from elsewhere."""


def find_file(run_dir: RunDir, typed: str) -> StartFile:
    """The file that was typed: the name of one of the run's files, else a path.

    Raises:
        UsageError: there is no such file.
    """
    history = RunHistory()
    history.feed(read_events(run_dir.events_path))
    files = {file.path.name: file for file in history.files(run_dir)}
    path = expanded(typed)
    if typed in files or (path.parent.absolute() == run_dir.path and path.name in files):
        saved = files[path.name]
        return StartFile(saved.path, saved)
    if not is_regular(path):
        names = [file.name for file in own_files(run_dir.path, run_dir.name) if file.suffix == ".safetensors"]
        there = f"The run has {listing([printable(name) for name in names])}." if names else "The run has no file yet."
        raise UsageError(f"--from: there is no file {printable(typed)}.", there, code="lora-file-missing")
    return StartFile(path.absolute())


def new_run(run_dir: RunDir, file: StartFile) -> dict[str, Any]:
    """Settings (dotted keys) of the new run that differ from the earlier run's configuration.

    Changes up to the file's step apply from the start; a file from elsewhere brings its own ranks.

    Raises:
        ConfigError, UsageError: the run's configuration cannot be read.
    """
    from engine.config import load_config

    config = run_dir.with_own_datasets(load_config(run_dir.config_path))
    place = next_free_directory(run_dir)
    values = values_of(config, file)
    values["saving.output_name"] = f"{_stem(config.saving.output_name)}-{_number(place)}"
    values["saving.output_dir"] = str(place)
    if config.dataset.dataset_config:
        values["dataset.dataset_config"] = config.dataset.dataset_config
    return values


def values_of(config: RunConfig, file: StartFile) -> dict[str, Any]:
    """Like `new_run`, without the name and folder of the new run."""
    from engine.config import RunConfig
    from engine.config.change import LENGTH_KEYS, LIVE_KEYS
    from engine.config.changes import effective_config

    step = file.saved.step if file.saved is not None else None
    now = effective_config(config, step) if step is not None else config
    changed = {
        key: value for key in LIVE_KEYS if key not in LENGTH_KEYS and (value := _value(now, key)) != _value(config, key)
    }
    own_ranks = {"network.dim_from_weights": True} if file.saved is None else {}
    return {
        **changed,
        **kept_trigger(now),
        **own_ranks,
        "training.changes": [],
        "training.max_train_epochs": EPOCHS_MORE,
        "training.max_train_steps": RunConfig().training.max_train_steps,  # only one length counts
        "network.network_weights": str(file.path),
    }


def described(run_dir: RunDir, file: StartFile, config: RunConfig) -> list[str]:
    """What the new run starts from, and how its files are named: sentences for the user.

    Args:
        config: of the new run.
    """
    name, saved = printable(config.saving.output_name), file.saved
    origin = printable(file.path)
    if saved is not None:
        where = [f"epoch {saved.epoch}" if saved.epoch else "", f"step {saved.step}" if saved.step is not None else ""]
        place = ", ".join(part for part in where if part)
        origin = f"{printable(file.path.name)}{f', {place}' if place else ''} of {printable(run_dir.name)}"
    training = config.training
    length = f"{training.max_train_epochs} epochs" if training.max_train_epochs else f"{training.max_train_steps} steps"
    lines = [
        f"A new run, {name}, begins with {origin} and trains {length} more, with a new optimizer and schedule.",
        f"Its files are counted from 1: {name}-000001.safetensors, …, {name}.safetensors. The trigger word is "
        f"{printable(config.trigger)}.",
    ]
    if saved is None:
        lines += _foreign(file.path, config)
    return lines


def _foreign(path: Path, config: RunConfig) -> list[str]:
    """Sentences about a file from elsewhere."""
    from engine.models.header import read_header

    own = trigger_of(read_header(path).metadata)
    lines = ["Modules, ranks and alphas are taken from the file (network.dim_from_weights)."]
    if own and own != config.trigger:
        lines.append(
            f"The file's metadata names the trigger word {printable(own)}; to train on that: --set "
            f"dataset.class_tokens={printable(own)}"
        )
    return lines


def trigger_of(metadata: Mapping[str, str]) -> str:
    """The trigger word in a LoRA's metadata: its trigger phrase, else the words of the only numbered folder that it was
    trained on ("10_ann person"). Empty if there is none."""
    if phrase := metadata.get("modelspec.trigger_phrase", "").strip():
        return phrase
    try:
        folders = parse_json(metadata.get("ss_tag_frequency", ""))
    except ValueError:
        return ""
    matches = [_NUMBERED.fullmatch(name) for name in folders] if isinstance(folders, dict) else []
    words = {match[1].strip() for match in matches if match is not None}
    return next(iter(words)) if len(words) == 1 else ""


def _value(config: RunConfig, key: str) -> Any:
    table, _, name = key.partition(".")
    return getattr(getattr(config, table), name)


def _stem(name: str) -> str:
    stem, dash, number = name.rpartition("-")
    return stem if dash and stem and number.isdecimal() else name


def _number(place: Path) -> str:
    """The number in a path from `next_free_directory`."""
    own = place if place.name.rpartition("-")[2].isdecimal() else place.parent
    return own.name.rpartition("-")[2]
