"""What was done to many captions at once, so that it can be taken back: an edit a file, written before each change."""

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
from engine.dataset.pool import Progress, ordered_map
from engine.reading import is_regular, open_file, parse_json, refuse_links

THREADS = 16
"""They wait for the disk."""
_SUFFIX = ".jsonl"
MAX_LINE = 16 * MAX_CAPTION_BYTES
"""Bytes: a caption before and after, each character escaped."""


@dataclass(frozen=True)
class Noted:
    """One caption file, before and after."""

    path: Path
    before: str | None
    """The whole file with every space and mark; None where there is none. Bytes that are no UTF-8 are kept as
    surrogates."""
    after: str
    """Lines without blank ones, as `normalised` leaves them."""


@dataclass(frozen=True)
class Undone:
    """What came of taking an edit back."""

    what: str = ""
    """What the edit was."""
    changed: int = 0
    """Captions that are as before again."""
    skipped: tuple[Path, ...] = ()
    """Captions that were changed after the edit: they were left alone."""


@dataclass(frozen=True)
class Edit:
    """One edit of many captions: the file of its changes, the first line of which says what it is."""

    file: Path
    folder: Path
    what: str
    time: float
    """Seconds since 1970."""
    job: str = ""
    """Of which captioning job it is; empty for an edit by hand."""

    def note(self, changes: Iterable[Noted]) -> None:
        """Write down what is about to be changed; when it returns, a power cut does not lose it.

        Raises:
            StorageError: no space or no permission. Nothing must be changed then.
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

    def changes(self) -> Iterator[Noted]:
        """All changes in their order; a line that was cut by a crash belongs to a change that was never made."""
        with open_file(self.file) as stream:
            stream.readline(MAX_LINE)
            while line := stream.readline(MAX_LINE):
                with suppress(ValueError, TypeError):
                    name, before, after = parse_json(line)
                    if isinstance(name, str) and isinstance(before, str | None) and isinstance(after, str):
                        yield Noted(self.folder / name, before, after)


@dataclass(frozen=True)
class Journal:
    """All edits of the captions of one folder.

    Args:
        place: the directory of their files; need not be there yet.
        folder: of pictures; the captions are in it or below it.
    """

    place: Path
    folder: Path

    def begin(self, what: str, job: str = "") -> Edit:
        """A new edit, the newest one.

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
        """Those that can be undone, the newest last."""
        return [edit for path in self._files() if (edit := self._open(path)) is not None]

    @property
    def undoable(self) -> bool:
        """Whether there is an edit to undo."""
        return bool(self.edits())

    def undo(self, progress: Progress | None = None) -> Undone:
        """Take the newest edit back, to the byte; captions that were changed after it are left alone.

        The journal may come with a folder of a stranger's: what it names outside the folder or behind a link is left
        alone too.

        Raises:
            StorageError: no space or no permission; calling it again goes on.
        """
        edits = self.edits()
        if not edits:
            return Undone()
        latest = edits[-1]
        wanted: dict[Path, tuple[str | None, set[str]]] = {}
        for change in latest.changes():  # a job that was cut may have noted a change twice
            wanted.setdefault(change.path, (change.before, set()))[1].add(change.after)
        restored, skipped = 0, []
        work = ordered_map(partial(_restore, self.folder), wanted.items(), THREADS, ahead=4 * THREADS)
        for done, (path, result) in enumerate(work, 1):
            restored += result == "restored"
            if result == "changed since":
                skipped.append(path)
            if progress is not None:
                progress(done, len(wanted))
        with writing(latest.file):
            latest.file.unlink(missing_ok=True)
        return Undone(latest.what, restored, tuple(skipped))

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
    """The whole file with every space, line end and mark; None where there is none.

    Raises:
        OSError: it is there and cannot be read, or is longer than a caption may be.
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
    """Whether a run reads `text` from a file with this content."""
    return exact is not None and normalised(exact.removeprefix("\ufeff")) == text


def _restore(folder: Path, entry: tuple[Path, tuple[str | None, set[str]]]) -> tuple[Path, str]:
    """The file's path, and what became of it."""
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
