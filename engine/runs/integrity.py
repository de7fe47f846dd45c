"""Checks of a run directory: its private files must be its own files, and its name a file name.

A run directory may come from another machine or a stranger. It is checked before anything is written into it or opened
in it: a link would lead elsewhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from engine.errors import UsageError
from engine.reading import noun
from engine.runs.layout import RunDir
from engine.runs.values import file_name
from engine.text import printable


def fault_of(run_dir: RunDir) -> str:
    """Why a directory cannot be used as a run, in one sentence; empty where it can.

    Cheap enough to be called often: some twenty `lstat` and one small read.
    """
    try:
        for path, is_folder in _places(run_dir):
            if fault := _misplaced(path, is_folder):
                return fault
    except OSError as error:
        where = os.fsdecode(error.filename) if error.filename else run_dir.path
        return f"{printable(where)} cannot be read: {error.strerror or error}."
    name = run_dir.meta.get("name")
    if name is not None and file_name(name) is None:
        text = printable(str(name))[:60]
        return f"{printable(run_dir.meta_path)} names the run {text!r}, which cannot be the name of its files."
    return ""


def require_sound(run_dir: RunDir) -> None:
    """Refuse a directory that cannot be used as a run.

    Raises:
        UsageError: with the reason.
    """
    if fault := fault_of(run_dir):
        raise damaged_run_error(run_dir, fault)


def damaged_run_error(run_dir: RunDir, fault: str) -> UsageError:
    """The error for the use of a run with a `fault_of`."""
    return UsageError(
        f"The run {printable(run_dir.path)} cannot be used: {fault}",
        "Links in a run directory are not followed. Put the file itself there, or delete the directory by hand.",
        code="run-damaged",
    )


def _places(run_dir: RunDir) -> Iterator[tuple[Path, bool]]:
    """Every path that the run reads or writes by name, and whether it must be a folder; then all links inside."""
    yield run_dir.private, True
    yield from ((path, True) for path in (run_dir.control, run_dir.checkpoints, run_dir.samples))
    records = (
        run_dir.meta_path, run_dir.state_path, run_dir.events_path, run_dir.log_path, run_dir.exit_path,
        run_dir.lock_path, run_dir.reserve_path, run_dir.inputs_path, run_dir.dataset_path, run_dir.config_path,
        run_dir.remarks_path,
    )  # fmt: skip
    yield from ((path, False) for path in records)
    for folder in (run_dir.private, run_dir.checkpoints):
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            yield from ((Path(entry.path), False) for entry in entries if entry.is_symlink())


def _misplaced(path: Path, is_folder: bool) -> str:
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if is_folder and not stat.S_ISDIR(mode):
        return f"{printable(path)} is {noun(mode)}, where a folder belongs."
    if not is_folder and not stat.S_ISREG(mode):
        return f"{printable(path)} is {noun(mode)}, where a file belongs."
    return ""
