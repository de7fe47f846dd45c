"""A captioning job seen from outside: where its files are, starting it, stopping it, and how far it is."""

from __future__ import annotations

import os
import sys
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.captioning.captioner import Kind, kind_of
from engine.captioning.options import CaptionOptions, read_options
from engine.dataset.caption_files import writing
from engine.dataset.caption_journal import Journal, Undone
from engine.dataset.folders import find_sources
from engine.dataset.pool import Progress
from engine.errors import UsageError
from engine.processes import child_variables
from engine.runs.control import clear, request
from engine.runs.events import Event
from engine.runs.integrity import require_sound
from engine.runs.launch import launch
from engine.runs.layout import RunDir, write_record
from engine.runs.state import true_state
from engine.runs.values import count
from engine.text import printable

NAME = ".captions"


@dataclass(frozen=True)
class CaptionJob(RunDir):
    """The files of the job on one folder of pictures: `<folder>/.captions/`, laid out as a run's `.run/`.

    It stands beside the captions that it writes, so that it moves with the folder, and so that whoever else has the
    folder open, on another machine too, meets the same lock. Names with a dot in front are no pictures anywhere, and
    Kohya's scripts do not look into such a folder.
    """

    @classmethod
    def of(cls, folder: Path) -> CaptionJob:
        """The job on a folder of pictures, started or not."""
        return cls(folder.expanduser() / NAME)

    @property
    def private(self) -> Path:
        """All files are in the job's own directory."""
        return self.path

    @property
    def meta_path(self) -> Path:
        """What is to be done: captioner and options."""
        return self.path / "job.json"

    @property
    def log_path(self) -> Path:
        """Standard output and error of the process."""
        return self.path / "captioning.log"

    @property
    def folder(self) -> Path:
        """The pictures; a trial, which changes nothing, is elsewhere and names them."""
        named = self.meta.get("folder") if self.path.name != NAME else None  # who gives away a folder names no other
        return Path(named) if isinstance(named, str) else self.path.parent

    @property
    def journal(self) -> Journal:
        """What was done to the captions, to be undone."""
        return Journal(self.path / "undo", self.path.parent)

    @property
    def trial(self) -> int:
        """For so many pictures it is only told what would be written; 0: the job is meant."""
        return count(self.meta.get("trial")) or 0 if self.path.name != NAME else 0

    def settings(self) -> tuple[Kind, CaptionOptions]:
        """Captioner and options.

        Raises:
            UsageError: job.json is missing or says what cannot be.
        """
        kind = kind_of(self.meta.get("captioner"))
        options = self.meta.get("options")
        return kind, read_options(kind.options, options if isinstance(options, dict) else {})

    @property
    def unfinished(self) -> bool:
        """Whether it was begun and was cut, stopped or has failed."""
        return self.is_run and true_state(self).state in ("stopped", "failed", "lost")


def start(folder: Path, captioner: str, values: Mapping[str, Any]) -> CaptionJob:
    """Start captioning in a process of its own, which outlives this one. One that was cut goes on where it was.

    Args:
        folder: of pictures, or the parent of `<repeats>_<name>` folders.
        captioner: a name of `KINDS`.
        values: options that differ from the defaults.

    Raises:
        UsageError: options that cannot be, or a job is going on there.
        DataError: the folder is missing or unreadable, or has no picture; nothing is made there.
        StorageError: the folder cannot be written.
    """
    kind = kind_of(captioner)
    options = read_options(kind.options, values)
    job = CaptionJob.of(folder)
    find_sources(job.folder, "")
    if job.path.is_symlink() or job.path.is_dir():
        require_sound(job)
    if true_state(job).live:
        raise UsageError(f"Captions are being made in {printable(job.folder)} already.", "Wait for its end, or stop.")
    going_on = job.unfinished and _same(job, kind, options)
    identity = str(job.meta.get("id", "")) if going_on else uuid.uuid4().hex
    record = {"version": 2, "captioner": captioner, "options": options.model_dump(), "id": identity}
    with writing(job.path):
        job.control.mkdir(parents=True, exist_ok=True)
        clear(job)
        if not going_on:
            for path in (job.events_path, job.log_path):
                path.unlink(missing_ok=True)
        for path in (job.exit_path, job.state_path):
            path.unlink(missing_ok=True)
        _launch(job, record)
    return job


def try_out(folder: Path, captioner: str, values: Mapping[str, Any], count: int, place: Path) -> CaptionJob:
    """Start a process that tells in its progress events what the first pictures would get, and changes nothing. It ends
    with this process, as nobody else would look at its answers.

    Args:
        count: of pictures.
        place: an empty directory for the job's files.

    Raises:
        UsageError: options that cannot be.
        StorageError: the directory cannot be written.
    """
    kind = kind_of(captioner)
    options = read_options(kind.options, values).model_dump()
    job = CaptionJob(place)
    named = {"id": "", "folder": os.path.abspath(folder.expanduser()), "trial": count}  # noqa: PTH100 - follows links
    with writing(place):
        _launch(job, {"version": 2, "captioner": captioner, "options": options, **named}, child_variables())
    return job


def _same(job: CaptionJob, kind: Kind, options: CaptionOptions) -> bool:
    """Whether what the job was begun with would write the same as these options."""
    try:
        before, begun = job.settings()
    except UsageError:
        return False
    return before is kind and begun.decisive() == options.decisive()


def _launch(job: CaptionJob, record: Mapping[str, Any], variables: Mapping[str, str] | None = None) -> None:
    write_record(job.meta_path, record)
    command = [sys.executable, "-P", "-m", "engine.captioning", str(job.path)]
    process = launch(job, command=command, variables=variables)
    threading.Thread(target=process.wait, daemon=True).start()  # else it would stay as a zombie


def undo(job: CaptionJob, progress: Progress | None = None) -> Undone:
    """Take the newest edit of many captions back, be it a job or one from the screen; see `Journal.undo`.

    Raises:
        UsageError: captions are being made there.
        StorageError: no space or no permission; calling it again goes on.
    """
    require_sound(job)
    if true_state(job).live:
        raise UsageError(f"Captions are being made in {printable(job.folder)}.", "Stop that first.")
    return job.journal.undo(progress)


def stop(job: CaptionJob) -> None:
    """Ask the job to finish its batch and end; what is done stays, and `start` goes on from there.

    Raises:
        StorageError: the wish cannot be written.
    """
    with writing(job.control):
        request(job, "stop")


@dataclass
class JobHistory:
    """What the events of a job amount to."""

    done: int = 0
    total: int = 0
    phase: str = ""
    written: list[str] = field(default_factory=list)
    """Pictures whose caption was written, relative to the folder, in order."""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: tuple[str, str] | None = None
    """(message, hint)"""
    ending: str = ""
    """State that the process ended in, by its own word; empty while it has not."""
    _first: tuple[float, int] | None = None
    _last: tuple[float, int] | None = None

    def add(self, event: Event) -> None:
        """Take in the next event."""
        if event.type == "run_started":
            if event.seq == 0:  # the log was begun anew
                vars(self).update(vars(JobHistory()))
            self.phase, self.error, self.ending, self._first = "", None, "", None
        elif event.type == "phase":
            self.phase = event.get("name", "") if event.get("state") == "start" else ""
        elif event.type == "progress":
            self.done, self.total = event.get("done", 0), event.get("total", 0)
            self.written += event.get("written", [])
            self._last = (event.time, self.done)
            self._first = self._first or self._last
        elif event.type == "note":
            self.notes.append(event.get("text", ""))
        elif event.type == "warning":
            self.warnings.append(event.get("text", ""))
        elif event.type == "error":
            self.error = (event.get("message", ""), event.get("hint", ""))
        elif event.type == "run_finished":
            self.ending = event.get("state", "")

    @property
    def seconds_left(self) -> float | None:
        """From the pace since the process began; None before there is one."""
        if self._first is None or self._last is None or self._last[1] <= self._first[1]:
            return None
        pace = (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])
        return pace * (self.total - self.done)
