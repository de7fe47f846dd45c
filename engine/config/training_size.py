"""The resolution and the batch size of a run, also from a dataset configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.config.schema import RunConfig
from engine.errors import LoraSmithError

if TYPE_CHECKING:
    from engine.config.kohya.dataset_file import SubsetSpec


def training_size(config: RunConfig) -> tuple[int, int]:
    """As (width, height); the largest one of a dataset configuration. An unreadable one is reported elsewhere, when its
    images are searched."""
    sizes = [spec.table.size for spec in _subsets(config) if not spec.is_reg]
    return max(sizes, key=lambda size: size[0] * size[1], default=config.dataset.size)


def largest_batch(config: RunConfig) -> int:
    """The largest batch size; 1 where a dataset configuration cannot be read."""
    fallback = 1 if config.dataset.dataset_config else config.training.train_batch_size
    return max((spec.batch_size for spec in _subsets(config)), default=fallback)


def _subsets(config: RunConfig) -> list[SubsetSpec]:
    """The subsets of the dataset configuration; none without one, or where it cannot be read."""
    if not config.dataset.dataset_config:
        return []
    from engine.config.kohya.dataset_file import read_dataset_config

    try:
        return read_dataset_config(Path(config.dataset.dataset_config).expanduser(), config)[0]
    except (LoraSmithError, RuntimeError):  # RuntimeError: ~name of an unknown user
        return []
