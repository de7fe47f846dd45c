"""What a logger needs to know of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engine.config import RunConfig
from engine.loggers.scalars import Entry, SampleImage


@dataclass(frozen=True)
class Setup:
    """A logger's settings."""

    folder: Path
    """`<logging_dir>/<prefix><time>`."""
    project: str
    name: str
    """Of the run."""
    options: Mapping[str, Any]
    """More arguments of `init`."""
    values: Mapping[str, Any] | None
    """The settings of the run, by their names; None without `log_config`."""
    id: str
    """A name of the run that no other one has."""
    continues: bool
    """An earlier process has begun to write."""


class Logger(Protocol):
    """A program that shows a run. Any error of a method means that it has failed."""

    def log(self, entry: Entry) -> None:
        """Show numbers."""

    def show(self, image: SampleImage, path: Path) -> None:
        """Show a sample, from the file `path`."""

    def flush(self) -> None:
        """Write what was logged."""

    def finish(self, ended_well: bool) -> None:
        """Write the rest; nothing follows."""


def shown_settings(config: RunConfig) -> dict[str, Any]:
    """The settings by their bare names, as the scripts log them: without paths, None and lists as text."""
    from engine.runs.prepare import path_keys

    left_out = {f"{table}.{key}" for table, key in path_keys()}
    return {
        key: value if isinstance(value, (bool, int, float, str)) else str(value)
        for table, members in config.model_dump().items()
        for key, value in members.items()
        if f"{table}.{key}" not in left_out and value is not None
    }
