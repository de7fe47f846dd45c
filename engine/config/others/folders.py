"""The folders of images in another trainer's file: settings where one is enough, else a dataset configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config.conversion import Conversion
from engine.config.kohya.dataset_keys import DATASET_KEYS


@dataclass
class Folder:
    """One folder of images, with the settings that count for it."""

    image_dir: str
    source: str
    """The key of the file that names it."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the table `[dataset]`, by key."""
    batch_size: int = 1
    is_reg: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)
    """Key of the configuration to the key of the file that sets it."""

    def level(self) -> dict[str, Any]:
        """The settings of the dataset that it belongs to."""
        shared = {key: value for key, value in self.settings.items() if key in DATASET_KEYS}
        return {"batch_size": self.batch_size, **shared}

    def subset(self) -> dict[str, Any]:
        """The folder as a subset of a dataset configuration."""
        own = {key: value for key, value in self.settings.items() if key not in DATASET_KEYS}
        return {"image_dir": self.image_dir, **own, **({"is_reg": True} if self.is_reg else {})}


def put_folders(conversion: Conversion, folders: Sequence[Folder], path: Path) -> None:
    """Put the folders into the configuration.

    Args:
        path: of the file itself, which then is its own dataset configuration.
    """
    if not folders:
        return
    conversion.datasets = {"datasets": _datasets(folders)}
    conversion.set(
        "training.train_batch_size", folders[0].batch_size, conversion.sources.get("training.train_batch_size", "")
    )
    first = folders[0]
    if len(folders) == 1 and not first.is_reg:
        conversion.set("dataset.train_data_dir", first.image_dir, first.source)
        for key, value in first.settings.items():
            conversion.set(f"dataset.{key}", value, first.sources.get(f"dataset.{key}", ""))
        return
    conversion.set("dataset.dataset_config", str(path.absolute()), first.source)


def _datasets(folders: Sequence[Folder]) -> list[dict[str, Any]]:
    """Folders of one size and batch size are one dataset, whose batches mix them."""
    datasets: list[dict[str, Any]] = []
    for folder in folders:
        level = folder.level()
        same = next((entry for entry in datasets if _level(entry) == level and not _holds(entry, folder)), None)
        if same is None:
            same = {**level, "subsets": []}
            datasets.append(same)
        same["subsets"].append(folder.subset())
    return datasets


def _level(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in dataset.items() if key != "subsets"}


def _holds(dataset: Mapping[str, Any], folder: Folder) -> bool:
    """Whether the folder is in the dataset already, which would leave the second one out."""
    return any(subset["image_dir"] == folder.image_dir for subset in dataset["subsets"])
