"""The run directory: the paths of its files. The directory is the only source of truth about a run."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.atomic import sweep, write_bytes
from engine.reading import is_regular, read_json
from engine.runs.values import file_name

if TYPE_CHECKING:
    from engine.config import RunConfig

CURRENT = "results_current"
MAX_RECORD = 2**20
"""Bytes of a record; the longest, meta.json, has some KiB."""
ARCHIVE = re.compile(r"results_\d{8}T\d{6}Z(-\d+)?")
"""Names of the directories that hold an earlier run."""


@dataclass(frozen=True)
class RunDir:
    """The files of one run. `path` is made absolute; nothing is created or checked."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(os.path.abspath(self.path)))  # noqa: PTH100 - resolve() follows links

    @property
    def private(self) -> Path:
        """`.run/`: everything that is not a result."""
        return self.path / ".run"

    @property
    def meta_path(self) -> Path:
        """Name, version and origin of the run: written once, before the start."""
        return self.private / "meta.json"

    @property
    def state_path(self) -> Path:
        """The present state of the run: replaced all the time."""
        return self.private / "state.json"

    @property
    def events_path(self) -> Path:
        """The event log, one JSON object a line."""
        return self.private / "events.jsonl"

    @property
    def log_path(self) -> Path:
        """Standard output and error of the trainer."""
        return self.private / "train.log"

    @property
    def control(self) -> Path:
        """Commands to the trainer, one file each."""
        return self.private / "control"

    @property
    def exit_path(self) -> Path:
        """How the run ended; missing while it runs, and when it was killed."""
        return self.private / "exit.json"

    @property
    def lock_path(self) -> Path:
        """Locked by the trainer's main process for its lifetime."""
        return self.private / "lock"

    @property
    def reserve_path(self) -> Path:
        """A few KiB that are deleted when the disk is full, so that the end can still be recorded."""
        return self.private / "reserve"

    @property
    def inputs_path(self) -> Path:
        """The inputs of the run: see `engine.runs.inputs`."""
        return self.private / "inputs.json"

    @property
    def remarks_path(self) -> Path:
        """What a person has noted about the run: see `engine.runs.remarks`."""
        return self.private / "remarks.json"

    @property
    def similarity_path(self) -> Path:
        """Figures of other models: see `engine.results.similarity`."""
        return self.private / "similarity.json"

    @property
    def checkpoints(self) -> Path:
        """The full states from which a resume continues."""
        return self.private / "checkpoints"

    @property
    def samples(self) -> Path:
        """The images generated while training."""
        return self.path / "sample"

    @property
    def meta(self) -> dict[str, Any]:
        """The content of meta.json; empty when it is missing or broken."""
        return read_record(self.meta_path)

    @property
    def is_run(self) -> bool:
        """True when a run was prepared here, even a damaged one (`integrity.fault_of`).

        Raises:
            OSError: the directory cannot be read.
        """
        try:
            self.meta_path.lstat()
        except ValueError:  # an invalid path
            return False
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            if isinstance(error, PermissionError) and os.path.lexists(self.private):
                return True
            raise
        return True

    @property
    def name(self) -> str:
        """The run's `output_name`; the name of the project's directory where meta.json has no valid one."""
        fallback = self.path.parent.name if is_results(self.path) else self.path.name
        return file_name(self.meta.get("name")) or fallback

    @property
    def dataset_path(self) -> Path:
        """The run's own copy of its dataset configuration, where it has one."""
        return self.private / "dataset.json"

    def with_own_datasets(self, config: RunConfig) -> RunConfig:
        """The run's configuration with its own copy of the dataset configuration, which the person may have changed."""
        own = self.dataset_path
        return config.changed(dataset={"dataset_config": str(own)}) if is_regular(own) else config

    @property
    def report_path(self) -> Path:
        """Default path of the run's report: `<output_name>_report.html`."""
        return self.path / f"{self.name}_report.html"

    @property
    def config_path(self) -> Path:
        """The run's full configuration: `<output_name>.toml`."""
        return self.path / f"{self.name}.toml"

    def lora_path(self, *, epoch: int | None = None, step: int | None = None) -> Path:
        """Kohya's file name: of a finished `epoch` (from 1), of a `step`, or, with neither, of the last file."""
        assert epoch is None or step is None
        if epoch is not None:
            return self.path / f"{self.name}-{epoch:06d}.safetensors"
        if step is not None:
            return self.path / f"{self.name}-step{step:08d}.safetensors"
        return self.path / f"{self.name}.safetensors"

    def sample_path(
        self, index: int, when: datetime, *, epoch: int | None = None, step: int = 0, seed: int | None = None
    ) -> Path:
        """Kohya's name of a sample of prompt `index`: generated after `epoch`, else at `step`; `seed` if fixed."""
        moment = f"{step:06d}" if epoch is None else f"e{epoch:06d}"
        suffix = "" if seed is None else f"_{seed}"
        return self.samples / f"{self.name}_{moment}_{index:02d}_{when:%Y%m%d%H%M%S}{suffix}.png"


def is_results(path: Path) -> bool:
    """Whether a directory is called as those that a project's runs write into."""
    return path.name == CURRENT or ARCHIVE.fullmatch(path.name) is not None


def default_output_dir(config: RunConfig) -> Path:
    """`saving.output_dir`, else `./<name>/results_current`."""
    return Path(config.saving.output_dir or Path(config.saving.output_name) / CURRENT)


def own_files(directory: Path, name: str) -> list[Path]:
    """The files that a run called `name` writes into `directory`, besides `.run`; links with these names too, but
    nothing behind a link."""
    result = re.compile(re.escape(name) + r"(-\d{6}|-step\d{8})?\.safetensors")
    pages = (f"{name}.toml", f"{name}_report.html")
    files = [path for path in _entries(directory) if result.fullmatch(path.name) or path.name in pages]
    samples = directory / "sample"
    if samples.is_symlink():
        return files
    return files + [path for path in _entries(samples) if path.name.startswith(f"{name}_")]


def sweep_run(run_dir: RunDir) -> int:
    """Remove the temporary files of killed processes in a run; returns their number. For the holder of its lock."""
    places = (run_dir.path, run_dir.samples, run_dir.private, run_dir.control, run_dir.checkpoints)
    return sum(sweep(place, older=True) for place in places)


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def own_file(folder: Path, path: str) -> Path | None:
    """The regular file in `folder` that an event names by `path`, None if it is gone. Only the file name counts: the
    folder in `path` may belong to another run by now, when this one was moved, copied or archived."""
    name = file_name(path.rpartition("/")[2])
    return folder / name if name is not None and is_regular(folder / name) else None


def record_root(path: Path) -> Path:
    """The run's folder, given one of its private files (`.run/state.json`); a link must not lead out of it."""
    return path.parent.parent


def read_record(path: Path) -> dict[str, Any]:
    """The table in a JSON file of a run; empty where it cannot be read."""
    try:
        value = read_json(path, MAX_RECORD, below=record_root(path))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_record(path: Path, value: Any) -> None:
    """Write a JSON file of a run atomically. ASCII only: file names may have bytes that are not UTF-8.

    Raises:
        StorageError: no space or no permission; the old file is intact.
    """
    write_bytes(path, record_bytes(value))


def record_bytes(value: Any) -> bytes:
    """The content of a JSON file of a run."""
    return (json.dumps(value, allow_nan=False, indent=1, default=str) + "\n").encode("ascii")
