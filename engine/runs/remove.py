"""Deletes a run: only the files that it has written, and only while no process can be using it."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import StorageError, UsageError, storage_error
from engine.runs.integrity import damaged_run_error
from engine.runs.layout import RunDir, own_files
from engine.runs.lock import RunLock
from engine.runs.state import true_state


@dataclass(frozen=True)
class Belongings:
    """The files that a run has written."""

    files: int
    bytes: int


def belongings(run_dir: RunDir) -> Belongings:
    """How much `remove_run` would delete."""
    sizes = []
    for path in (*own_files(run_dir.path, run_dir.name), *run_dir.private.rglob("*")):
        with suppress(OSError):  # gone meanwhile
            if path.is_symlink() or path.is_file():
                sizes.append(path.lstat().st_size)
    return Belongings(len(sizes), sum(sizes))


def remove_run(run_dir: RunDir) -> Belongings:
    """Delete a run's LoRA files, samples, configuration and `.run`; other files stay.

    Raises:
        UsageError: it is live, or may be on another machine, or is damaged (`integrity.fault_of`).
        StorageError: something cannot be deleted; the run is then still a run.
    """
    state = true_state(run_dir)
    if state.state == "damaged":
        raise damaged_run_error(run_dir, state.detail)
    if state.live:
        raise UsageError(f"The run {run_dir.path} is running.", "Stop it first.", code="run-is-live")
    if state.state == "unknown":
        raise UsageError(
            f"{run_dir.path}: {state.detail}. It may still be running there.",
            "Delete it on that machine.",
            code="run-on-other-machine",
        )
    removed = belongings(run_dir)
    try:
        with RunLock(run_dir.lock_path):  # nobody can resume it meanwhile
            for path in own_files(run_dir.path, run_dir.name):
                path.unlink(missing_ok=True)
            _remove_private(run_dir)
    except OSError as error:
        where = Path(error.filename) if error.filename else run_dir.path
        raise storage_error(error, where, "Deleting") or StorageError(
            f"{where}: {error.strerror}.", code="delete-failed"
        ) from error
    for directory in (run_dir.samples, run_dir.path):
        with suppress(OSError):  # not empty: it has files of the person
            directory.rmdir()
    return removed


def _remove_private(run_dir: RunDir) -> None:
    """`.run`, with meta.json last: until then the directory is a run that can be deleted again."""
    for path in run_dir.private.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != run_dir.meta_path:
            path.unlink()
    shutil.rmtree(run_dir.private)
