"""The images in another trainer's file, as the content of a dataset configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config.others.onetrainer import dataset_of_concepts
from engine.config.others.registry import conversion_of
from engine.config.others.source import read_source
from engine.config.problems import ConfigError
from engine.errors import UsageError
from engine.text import printable

_IMAGES = ("datasets", "subsets", "concepts", "batch_size", "resolution", "train.batch_size")
"""Beginnings of the keys of images."""


def dataset_content(path: Path, text: str) -> Mapping[str, Any] | None:
    """`[[datasets]]` with their subsets from another trainer's file; None for any other file.

    Raises:
        UsageError: it is one that is not converted, or has no images; the message names the program.
        ConfigError: with the problems of its images.
    """
    conversion = dataset_of_concepts(read_source(path, text)) or conversion_of(path, text)
    if conversion is None:
        return None
    if problems := [problem for problem in conversion.problems if problem.key.startswith(_IMAGES)]:
        raise ConfigError(problems)
    if conversion.datasets is None:
        raise UsageError(
            f"{printable(path)} is a {conversion.kind} of {conversion.program} without images.",
            "It is given by --preset; name the images with --images DIR.",
            code="no-dataset-config",
        )
    return conversion.datasets
