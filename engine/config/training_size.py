"""The resolution that a run trains, also where a dataset configuration says it."""

from __future__ import annotations

from pathlib import Path

from engine.config.schema import RunConfig
from engine.errors import LoraSmithError


def training_size(config: RunConfig) -> tuple[int, int]:
    """As (width, height); the largest of those in a dataset configuration. One that cannot be read is told where its
    pictures are looked for."""
    if not config.dataset.dataset_config:
        return config.dataset.size
    from engine.config.kohya.dataset_file import read_dataset_config

    try:
        specs, _ = read_dataset_config(Path(config.dataset.dataset_config).expanduser(), config)
    except (LoraSmithError, RuntimeError):  # RuntimeError: ~name, and no such user
        return config.dataset.size
    sizes = [spec.table.size for spec in specs if not spec.is_reg]
    return max(sizes, key=lambda size: size[0] * size[1], default=config.dataset.size)
