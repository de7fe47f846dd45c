"""The dataset configuration of an export: the folders from a scan, or that of the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from engine.config.kohya.dataset_file import frozen_text
from engine.config.kohya.dataset_keys import DATASET_KEYS, SHARED_KEYS
from engine.config.kohya.export_fit import Fitted
from engine.config.schema import RunConfig


@dataclass(frozen=True)
class ExportedSubset:
    """One folder of images."""

    image_dir: str
    num_repeats: int
    class_tokens: str = ""
    is_reg: bool = False
    metadata_file: str | None = None
    """Where its captions are; None: next to the images."""


def own_datasets(config: RunConfig) -> Any:
    """The content of the run's dataset configuration; None where it has none.

    Raises:
        UsageError: it cannot be read.
        ConfigError: it is not valid.
    """
    if not config.dataset.dataset_config:
        return None
    return _present(json.loads(frozen_text(Path(config.dataset.dataset_config))))


def _present(value: Any) -> Any:
    """JSON without nulls, which TOML does not have."""
    if isinstance(value, dict):
        return {key: _present(inner) for key, inner in value.items() if inner is not None}
    return [_present(inner) for inner in value] if isinstance(value, list) else value


def dataset_toml(fit: Fitted, subsets: Sequence[ExportedSubset]) -> str:
    """The dataset configuration: that of the run, if it has one, completed with the run's own settings."""
    config = fit.config
    document = tomlkit.document()
    document.add(tomlkit.comment("Images and captions, for --dataset_config."))
    general = {
        key: value
        for key, value in config.dataset.model_dump().items()
        if key in DATASET_KEYS | SHARED_KEYS and key not in ("num_repeats", "class_tokens") and value is not None
    }
    general["validation_split"] = config.dataset.validation_split or 0.0
    general["batch_size"] = config.training.train_batch_size
    if fit.datasets is not None:
        own = fit.datasets
        if config.dataset.num_repeats is not None:
            general["num_repeats"] = config.dataset.num_repeats
        if config.dataset.alpha_mask:
            for subset in (subset for dataset in own["datasets"] for subset in dataset["subsets"]):
                if "conditioning_data_dir" not in subset:
                    subset.setdefault("alpha_mask", True)
        document.add("general", tomlkit.item(general | own.get("general", {})))
        document.add("datasets", tomlkit.item(own["datasets"]))
        return tomlkit.dumps(document)
    document.add("general", tomlkit.item(general))
    dataset, inner = tomlkit.table(), tomlkit.aot()
    masks = config.dataset.conditioning_data_dir if config.dataset.masked_loss else None
    if masks:
        _note_masks(fit, subsets)
    elif config.dataset.in_json and config.dataset.validation_split:
        fit.notes.append("validation_split has no effect in the scripts: a dataset of in_json is not split.")
    for subset in [subset for subset in subsets if not (masks and subset.is_reg)]:
        inner.append(_subset(subset, masks, config.dataset.alpha_mask))
    dataset.add("subsets", inner)
    datasets = tomlkit.aot()
    datasets.append(dataset)
    document.add("datasets", datasets)
    return tomlkit.dumps(document)


def _subset(subset: ExportedSubset, masks: str | None, alpha_mask: bool) -> Any:
    """A subset with images and captions; with masks it is of a kind with fewer keys."""
    entry = tomlkit.table()
    entry.add("image_dir", subset.image_dir)
    entry.add("num_repeats", subset.num_repeats)
    if masks:
        entry.add("conditioning_data_dir", masks)
        return entry
    if subset.metadata_file:
        entry.add("metadata_file", subset.metadata_file)
    elif subset.class_tokens:
        entry.add("class_tokens", subset.class_tokens)
    for key, is_set in (("is_reg", subset.is_reg), ("alpha_mask", alpha_mask)):
        if is_set:
            entry.add(key, True)
    return entry


def _note_masks(fit: Fitted, subsets: Sequence[ExportedSubset]) -> None:
    """Note what a dataset with masks cannot have in the scripts."""
    if any(subset.is_reg for subset in subsets):
        fit.notes.append("Regularization images are left out: the scripts have no masks for them.")
    if any(subset.class_tokens for subset in subsets):
        text = "class_tokens are left out: a dataset with masks has none, and"
        fit.notes.append(f"{text} images without a caption get an empty one.")
    if fit.config.dataset.in_json:
        fit.notes.append("in_json is left out: a dataset with masks reads its captions next to the images.")
    if fit.config.dataset.alpha_mask:
        fit.notes.append("alpha_mask is left out: a dataset with masks has none.")
    if fit.config.dataset.validation_split:
        fit.notes.append("validation_split has no effect in the scripts: a dataset with masks is not split.")
