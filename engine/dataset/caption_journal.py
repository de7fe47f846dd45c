"""A journal for undoing edits of many captions: one file per edit, written before the captions change."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine.atomic import write_bytes
from engine.dataset.caption_files import normalised, writing
from engine.dataset.folders import MAX_CAPTION_BYTES
from engine.dataset.pool import ordered_map
from engine.reading import is_regular, open_file, parse_json, refuse_links
from engine.types import Progress

THREADS = 16
"""More than CPU cores: they wait for the disk."""
_SUFFIX = ".jsonl"
MAX_LINE = 16 * MAX_CAPTION_BYTES
"""Bytes: a caption before and after, with every character escaped."""


@dataclass(frozen=True)
class CaptionChange:
    """The content of one caption file before and after a change."""

    path: Path
    before: str | None
    """The exact content of the file; None if it does not exist. Bytes that are not UTF-8 are kept as surrogates."""
    after: str
    """Non-blank lines, as from `normalised`."""


@dataclass(frozen=True)
class UndoResult:
    """The result of undoing an edit."""

    what: str = ""
    """Description of the edit."""
    changed: int = 0
    """Restored captions."""
    skipped: tuple[Path, ...] = ()
    """Captions that were changed after the edit; they are kept."""


@dataclass(frozen=True)
class Edit:
    """One edit of many captions: a file with a header line and one line per change."""

    file: Path
    folder: Path
    what: str
    time: float
    """Seconds since 1970."""
    job: str = ""
    """Id of its captioning job; empty for an edit by hand."""

    def record(self, changes: Iterable[CaptionChange]) -> None:
        """Record changes before they are made; on return they are on disk (fsync).

        Raises:
            StorageError: no space or no permission. Then nothing must be changed.
        """
        lines = [[str(change.path.relative_to(self.folder)), change.before, change.after] for change in changes]
        data = "".join(f"{json.dumps(line)}\n" for line in lines).encode("ascii")
        with writing(self.file), self.file.open("rb+") as stream:
            if stream.seek(0, os.SEEK_END):
                stream.seek(-1, os.SEEK_END)
                data = data if stream.read(1) == b"\n" else b"\n" + data
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def changes(self) -> Iterator[CaptionChange]:
        """All changes in order; a line cut off by a crash belongs to a change that was never made."""
        with open_file(self.file) as stream:
            stream.readline(MAX_LINE)
            while line := stream.readline(MAX_LINE):
                with suppress(ValueError, TypeError):
                    name, before, after = parse_json(line)
                    if isinstance(name, str) and isinstance(before, str | None) and isinstance(after, str):
                        yield CaptionChange(self.folder / name, before, after)


@dataclass(frozen=True)
class Journal:
    """All edits of the captions of one folder.

    Args:
        place: directory of the journal files; created when needed.
        folder: the image folder, with the captions in it or below it.
    """

    place: Path
    folder: Path

    def begin(self, what: str, job: str = "") -> Edit:
        """Start a new edit.

        Raises:
            StorageError: no space or no permission.
        """
        number = max((int(path.stem) for path in self._files()), default=0) + 1
        file = self.place / f"{number:06d}{_SUFFIX}"
        now = round(time.time(), 3)
        with writing(self.place):
            self.place.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="ascii") as stream:
                stream.write(f"{json.dumps({'what': what, 'time': now, 'job': job})}\n")
        return Edit(file, self.folder, what, now, job)

    def edits(self) -> list[Edit]:
        """Edits that can be undone, the newest last."""
        return [edit for path in self._files() if (edit := self._open(path)) is not None]

    @property
    def undoable(self) -> bool:
        """Whether there is an edit to undo."""
        return bool(self.edits())

    def undo(self, progress: Progress | None = None) -> UndoResult:
        """Undo the newest edit, byte for byte; captions changed after it are kept.

        The journal may come with an untrusted folder: paths outside the folder or behind a link are skipped.

        Raises:
            StorageError: no space or no permission; another call continues.
        """
        edits = self.edits()
        if not edits:
            return UndoResult()
        latest = edits[-1]
        restore: dict[Path, tuple[str | None, set[str]]] = {}
        for change in latest.changes():  # an interrupted job may have recorded a change twice
            restore.setdefault(change.path, (change.before, set()))[1].add(change.after)
        restored, skipped = 0, []
        work = ordered_map(partial(_restore, self.folder), restore.items(), THREADS, ahead=4 * THREADS)
        for done, (path, result) in enumerate(work, 1):
            restored += result == "restored"
            if result == "changed since":
                skipped.append(path)
            if progress is not None:
                progress(done, len(restore))
        with writing(latest.file):
            latest.file.unlink(missing_ok=True)
        return UndoResult(latest.what, restored, tuple(skipped))

    def _files(self) -> list[Path]:
        return sorted(path for path in self.place.glob(f"*{_SUFFIX}") if path.stem.isdecimal() and is_regular(path))

    def _open(self, path: Path) -> Edit | None:
        try:
            with open_file(path) as stream:
                head: Any = parse_json(stream.readline(MAX_LINE))
            return Edit(path, self.folder, str(head["what"]), float(head["time"]), str(head["job"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def exact_text(path: Path) -> str | None:
    """The exact content of the file; None if it does not exist.

    Raises:
        OSError: it cannot be read, or is longer than a caption may be.
    """
    try:
        with open_file(path) as stream:
            data = stream.read(MAX_CAPTION_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > MAX_CAPTION_BYTES:
        raise OSError(f"{path.name} is longer than 1 MiB")
    return data.decode("utf-8", "surrogateescape")


def reads_as(exact: str | None, text: str) -> bool:
    """Whether a run reads `text` from a file with the content `exact`."""
    return exact is not None and normalised(exact.removeprefix("\ufeff")) == text


def _restore(folder: Path, entry: tuple[Path, tuple[str | None, set[str]]]) -> tuple[Path, str]:
    """The file's path and the outcome."""
    path, (before, afters) = entry
    try:
        refuse_links(path, folder)
        now = exact_text(path)
    except OSError:
        return path, "changed since"
    if now == before:
        return path, "as before"
    if not any(reads_as(now, after) for after in afters):
        return path, "changed since"
    with writing(path):
        if before is None:
            path.unlink()
        else:
            write_bytes(path, before.encode("utf-8", "surrogateescape"))
    return path, "restored"
