"""Whether a run directory is what it seems: its private files are files of its own, and its name is a file name.

A run directory may come from another machine or a stranger. Whoever writes into one, or opens what it names, asks here
first: a link in it would lead the writing elsewhere.
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
    """What keeps a directory from being used as a run, in one sentence; empty where nothing does.

    Costs some twenty looks at the directory and reads its record, so that it can be asked often.
    """
    try:
        for path, is_folder in _places(run_dir):
            if fault := _misplaced(path, is_folder):
                return fault
    except OSError as error:
        where = os.fsdecode(error.filename) if error.filename else run_dir.path
        return f"{printable(where)} cannot be looked at: {error.strerror or error}."
    named = run_dir.meta.get("name")
    if named is not None and file_name(named) is None:
        shown = printable(str(named))[:60]
        return f"{printable(run_dir.meta_path)} names the run {shown!r}, which cannot be the name of its files."
    return ""


def require_sound(run_dir: RunDir) -> None:
    """Refuse a directory that cannot be used as a run.

    Raises:
        UsageError: says why.
    """
    if fault := fault_of(run_dir):
        raise damaged(run_dir, fault)


def damaged(run_dir: RunDir, fault: str) -> UsageError:
    """The error of whoever would use a run with a `fault_of`."""
    return UsageError(
        f"The run {printable(run_dir.path)} cannot be used: {fault}",
        "Nothing in a run directory is followed out of it. Put the file itself there, or delete the directory by hand.",
    )


def _places(run_dir: RunDir) -> Iterator[tuple[Path, bool]]:
    """Every place that the run reads or writes by name, and whether it is a folder's; then what else lies inside."""
    yield run_dir.private, True
    yield from ((path, True) for path in (run_dir.control, run_dir.checkpoints, run_dir.samples))
    records = (
        run_dir.meta_path, run_dir.state_path, run_dir.events_path, run_dir.log_path, run_dir.exit_path,
        run_dir.lock_path, run_dir.reserve_path, run_dir.inputs_path, run_dir.dataset_path, run_dir.config_path,
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
