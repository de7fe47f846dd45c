"""A run's file as a LoRA to use, from the run's records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.dataset.caption_files import has_word
from engine.errors import LoraSmithError
from engine.models.header import read_header
from engine.results.what_now import Lora, lora_of
from engine.runs.layout import RunDir

if TYPE_CHECKING:
    from engine.config import RunConfig


def lora_of_run(run_dir: RunDir, path: Path) -> Lora:
    """The LoRA of a run's file; if the base is gone, its family is "unknown" unless the settings name it.

    Raises:
        UsageError, ConfigError: the run's configuration cannot be read.
    """
    from engine.config import load_config
    from engine.config.changes import at_the_end
    from engine.families.resolved import family_of_settings, resolve_without_model

    config = at_the_end(load_config(run_dir.config_path))
    run = resolve_without_model(config)
    is_known = run.recognition.layout != "configurations" or family_of_settings(config) is not None
    lora = lora_of(run, path, run.recognition.family if is_known else "unknown")
    if learned_trigger(config, path):
        return lora
    return replace(lora, trigger="", prompt=max(captions_in(path), key=len, default=lora.prompt))


def learned_trigger(config: RunConfig, path: Path) -> str:
    """The trigger word that a run's captions taught: that of the settings, else the run's name, but "" where the file
    was trained on captions and none has the name."""
    if config.dataset.class_tokens:
        return config.dataset.class_tokens
    captions = list(captions_in(path))
    name = config.trigger
    return name if not captions or any(has_word(caption, name) for caption in captions) else ""


def captions_in(path: Path) -> Iterator[str]:
    """The captions, or their tags, that a LoRA file says it was trained on; else none."""
    try:
        metadata = read_header(path).metadata
        yield from _tags(json.loads(metadata.get("ss_tag_frequency", "{}")))
        for dataset in json.loads(metadata.get("ss_datasets", "[]")):
            yield from _tags(dataset["tag_frequency"])
    except (LoraSmithError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return


def _tags(folders: dict[str, dict[str, Any]]) -> Iterator[str]:
    for tags in folders.values():
        yield from map(str, tags)
