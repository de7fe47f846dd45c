"""What a person has noted about a run: another name to show, a note, favourite files. The trainer reads none of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from engine.runs.integrity import require_sound
from engine.runs.layout import RunDir, read_record, write_record
from engine.runs.values import file_name
from engine.text import without_controls

LONGEST_TITLE, LONGEST_NOTE = 60, 500
"""Characters."""
MOST_FAVOURITES = 1000


@dataclass(frozen=True)
class Remarks:
    """Of one run; empty where nothing was noted."""

    title: str = ""
    """The name that lists show instead of the run's own; its files keep theirs."""
    note: str = ""
    favourites: frozenset[str] = frozenset()
    """Names of files."""

    def toggled(self, name: str) -> Remarks:
        """With a file as a favourite, or without it where it is one."""
        return Remarks(self.title, self.note, self.favourites ^ {name})


def read_remarks(run_dir: RunDir) -> Remarks:
    """What was noted; values that cannot be right count as missing."""
    record = read_record(run_dir.remarks_path)
    names = record.get("favourites")
    kept = (file_name(name) for name in (names[:MOST_FAVOURITES] if isinstance(names, list) else ()))
    return Remarks(
        _line(record.get("title"), LONGEST_TITLE),
        _line(record.get("note"), LONGEST_NOTE),
        frozenset(name for name in kept if name is not None),
    )


def write_remarks(run_dir: RunDir, remarks: Remarks) -> None:
    """Replace what was noted.

    Raises:
        UsageError: the run is damaged (`integrity.fault_of`).
        StorageError: no space or no permission; the old file is intact.
    """
    require_sound(run_dir)
    favourites = sorted(remarks.favourites)[:MOST_FAVOURITES]
    write_record(
        run_dir.remarks_path,
        {
            "title": _line(remarks.title, LONGEST_TITLE),
            "note": _line(remarks.note, LONGEST_NOTE),
            "favourites": favourites,
        },
    )


def rename_favourite(run_dir: RunDir, old: str, new: str) -> None:
    """Keep the mark on a file that is about to get another name: a process that ends in between, and is repeated, finds
    the mark where the file will be.

    Raises:
        UsageError, StorageError: as `write_remarks`.
    """
    remarks = read_remarks(run_dir)
    if old in remarks.favourites:
        write_remarks(run_dir, replace(remarks, favourites=remarks.favourites - {old} | {new}))


def _line(value: Any, longest: int) -> str:
    """A text as one line without controls; empty for anything else."""
    return " ".join(without_controls(value[: 4 * longest]).split())[:longest] if isinstance(value, str) else ""
