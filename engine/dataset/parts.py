"""The folders of a configuration, each with its role: what `engine.dataset.scan` reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from engine.config.dataset import DatasetTable
from engine.config.schema import RunConfig
from engine.dataset.configured import ConfiguredSource, configured_sources, metadata_source
from engine.dataset.decoding import KOHYA_EXTENSIONS
from engine.dataset.folders import Source, find_sources
from engine.dataset.images import Rejected
from engine.errors import DataError, UsageError
from engine.paths import expanded
from engine.text import printable

Role = Literal["train", "reg", "validation"]

_KEYS: dict[Role, str] = {"train": "train_data_dir", "reg": "reg_data_dir", "validation": "validation_data_dir"}


@dataclass(frozen=True)
class Part:
    """A future subset with its role."""

    source: Source
    role: Role
    configured: ConfiguredSource | None = None
    """Its source in a dataset configuration, if it has one."""

    def table(self, config: RunConfig) -> DatasetTable:
        """The settings of this part."""
        return config.dataset if self.configured is None else self.configured.spec.table

    def class_tokens(self, config: RunConfig) -> str:
        """The caption of images without one; regularization images never get the trigger."""
        if self.configured is not None:
            return self.configured.spec.class_tokens
        if self.role == "reg":
            return self.source.name
        return config.dataset.class_tokens or self.source.name or config.saving.output_name


def find_parts(config: RunConfig) -> tuple[list[Part], list[Rejected], list[str]]:
    """The parts of a run, files in their folders that cannot be used, and notes.

    Raises:
        UsageError: no folder is set, or one folder has two roles.
        DataError: a folder is missing, unreadable, or without any image file.
    """
    if config.dataset.dataset_config:
        return _configured_parts(config)
    if not config.dataset.train_data_dir:
        raise UsageError(
            "dataset.train_data_dir is not set.",
            "Name the folder of the images with --images DIR.",
            code="no-folder-of-images",
        )
    if config.dataset.in_json:
        metadata, notes = metadata_source(config)
        more, rejected, more_notes = _validation_parts(config)
        return [Part(metadata.source, "train", metadata), *more], rejected, [*notes, *more_notes]
    parts: list[Part] = []
    rejected, notes = [], []
    roles: dict[Path, str] = {}
    for role, name in _KEYS.items():
        value = getattr(config.dataset, name)
        if not value:
            continue
        sources, source_rejected, source_notes = find_sources(expanded(value), f"dataset.{name}")
        for source in sources:
            place = source.folder.path.resolve()
            if place in roles:
                raise UsageError(
                    f"dataset.{name} and dataset.{roles[place]} both use the folder {printable(place)}.",
                    "Use it for one of training, regularization and validation.",
                    code="folder-used-twice",
                )
            roles[place] = name
        parts += [Part(source, role) for source in sources]
        rejected += source_rejected
        notes += source_notes
    return parts, rejected, notes


def _configured_parts(config: RunConfig) -> tuple[list[Part], list[Rejected], list[str]]:
    """The subsets of a dataset configuration; the folders of `[dataset]` are then not read."""
    table = config.dataset
    assert table.dataset_config
    configured, notes = configured_sources(expanded(table.dataset_config), config)
    ignored = [f"dataset.{name}" for name in ("train_data_dir", "reg_data_dir") if getattr(table, name)]
    if ignored:
        notes.insert(0, f"{' and '.join(ignored)} not read: dataset.dataset_config is set")
    parts = [Part(entry.source, "reg" if entry.spec.is_reg else "train", entry) for entry in configured]
    if not any(part.role == "train" for part in parts):
        raise DataError(
            f"{printable(table.dataset_config)} has no subset to train on: all are is_reg.",
            "Add one.",
            code="no-subset-to-train",
        )
    rejected = [file for entry in configured for file in entry.source.folder.rejected]
    more, more_rejected, more_notes = _validation_parts(config)
    return [*parts, *more], [*rejected, *more_rejected], [*notes, *more_notes]


def _validation_parts(config: RunConfig) -> tuple[list[Part], list[Rejected], list[str]]:
    """The folders of `dataset.validation_data_dir`."""
    place = config.dataset.validation_data_dir
    if not place:
        return [], [], []
    sources, rejected, notes = find_sources(expanded(place), "dataset.validation_data_dir")
    return [Part(source, "validation") for source in sources], rejected, notes


def as_kohya(part: Part, rejected: list[Rejected]) -> Part:
    """The part without images that Kohya's scripts ignore; those go to `rejected`."""
    folder = part.source.folder
    supported = tuple(
        path for path in folder.images
        if path.suffix.lower() in KOHYA_EXTENSIONS and path.suffix in (path.suffix.lower(), path.suffix.upper())
    )  # fmt: skip
    reason = "Kohya's scripts do not read this kind of file (kohya_exact)"
    left_out = set(folder.images).difference(supported)
    rejected += [Rejected(path, reason) for path in folder.images if path in left_out]
    return replace(part, source=replace(part.source, folder=replace(folder, images=supported)))
