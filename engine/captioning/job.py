"""A captioning job from outside: its files, starting and stopping it, and its progress."""

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
from engine.dataset.caption_journal import Journal, UndoResult
from engine.dataset.folders import find_sources
from engine.errors import UsageError
from engine.processes import child_variables
from engine.runs.control import clear, request
from engine.runs.events import (
    ErrorEvent,
    Event,
    NoteEvent,
    PhaseEvent,
    ProgressEvent,
    RunFinishedEvent,
    RunStartedEvent,
    WarningEvent,
)
from engine.runs.integrity import require_sound
from engine.runs.launch import launch
from engine.runs.layout import RunDir, write_record
from engine.runs.state import true_state
from engine.runs.values import count
from engine.text import printable
from engine.types import Progress

NAME = ".captions"


@dataclass(frozen=True)
class CaptionJob(RunDir):
    """The files of the job on one folder of images: `<folder>/.captions/`, laid out as a run's `.run/`.

    It is next to the captions that it writes, so that it moves with the folder, and so that all users of the folder,
    also on other machines, share one lock. Names with a leading dot are never images, and Kohya's scripts ignore such
    a folder.
    """

    @classmethod
    def of(cls, folder: Path) -> CaptionJob:
        """The job of an image folder, started or not."""
        return cls(folder.expanduser() / NAME)

    @property
    def private(self) -> Path:
        """The job's own directory has all files."""
        return self.path

    @property
    def meta_path(self) -> Path:
        """Captioner and options of the job."""
        return self.path / "job.json"

    @property
    def log_path(self) -> Path:
        """Standard output and error of the process."""
        return self.path / "captioning.log"

    @property
    def folder(self) -> Path:
        """The image folder; a trial, which changes nothing, is elsewhere and has its path."""
        path = (
            self.meta.get("folder") if self.path.name != NAME else None
        )  # a shared folder must not point to another one
        return Path(path) if isinstance(path, str) else self.path.parent

    @property
    def journal(self) -> Journal:
        """The journal for undoing changes of the captions."""
        return Journal(self.path / "undo", self.path.parent)

    @property
    def trial(self) -> int:
        """Number of images of a trial, which only reports proposed captions; 0: a regular job."""
        return count(self.meta.get("trial")) or 0 if self.path.name != NAME else 0

    def settings(self) -> tuple[Kind, CaptionOptions]:
        """Captioner and options.

        Raises:
            UsageError: job.json is missing or invalid.
        """
        kind = kind_of(self.meta.get("captioner"))
        options = self.meta.get("options")
        return kind, read_options(kind.options, options if isinstance(options, dict) else {})

    @property
    def unfinished(self) -> bool:
        """Whether it was started, and then killed, stopped, or failed."""
        return self.is_run and true_state(self).state in ("stopped", "failed", "lost")


def start(folder: Path, captioner: str, values: Mapping[str, Any]) -> CaptionJob:
    """Start captioning in a separate process that outlives this one. An interrupted job continues.

    Args:
        folder: of images, or the parent of `<repeats>_<name>` folders.
        captioner: a name in `KINDS`.
        values: options that differ from the defaults.

    Raises:
        UsageError: invalid options, or a job is running there.
        DataError: the folder is missing or unreadable, or has no image; nothing is created.
        StorageError: the folder cannot be written.
    """
    kind = kind_of(captioner)
    options = read_options(kind.options, values)
    job = CaptionJob.of(folder)
    find_sources(job.folder, "")
    if job.path.is_symlink() or job.path.is_dir():
        require_sound(job)
    if true_state(job).live:
        raise UsageError(
            f"Captions are being made in {printable(job.folder)} already.",
            "Wait until it ends, or stop it.",
            code="captioning-is-live",
        )
    continues = job.unfinished and _same(job, kind, options)
    identity = str(job.meta.get("id", "")) if continues else uuid.uuid4().hex
    record = {"version": 2, "captioner": captioner, "options": options.model_dump(), "id": identity}
    with writing(job.path):
        job.control.mkdir(parents=True, exist_ok=True)
        clear(job)
        if not continues:
            for path in (job.events_path, job.log_path):
                path.unlink(missing_ok=True)
        for path in (job.exit_path, job.state_path):
            path.unlink(missing_ok=True)
        _launch(job, record)
    return job


def try_out(folder: Path, captioner: str, values: Mapping[str, Any], count: int, place: Path) -> CaptionJob:
    """Start a trial: a process that reports captions for the first images in its progress events and changes nothing.
    It ends with this process.

    Args:
        count: of images.
        place: an empty directory for the job's files.

    Raises:
        UsageError: invalid options.
        StorageError: the directory cannot be written.
    """
    kind = kind_of(captioner)
    options = read_options(kind.options, values).model_dump()
    job = CaptionJob(place)
    trial = {"id": "", "folder": os.path.abspath(folder.expanduser()), "trial": count}  # noqa: PTH100 - follows links
    with writing(place):
        _launch(job, {"version": 2, "captioner": captioner, "options": options, **trial}, child_variables())
    return job


def _same(job: CaptionJob, kind: Kind, options: CaptionOptions) -> bool:
    """Whether the job's captioner and options would write the same captions as these."""
    try:
        job_kind, job_options = job.settings()
    except UsageError:
        return False
    return job_kind is kind and job_options.output_options() == options.output_options()


def _launch(job: CaptionJob, record: Mapping[str, Any], variables: Mapping[str, str] | None = None) -> None:
    write_record(job.meta_path, record)
    command = [sys.executable, "-P", "-m", "engine.captioning", str(job.path)]
    process = launch(job, command=command, variables=variables)
    threading.Thread(target=process.wait, daemon=True).start()  # otherwise it would become a zombie


def undo(job: CaptionJob, progress: Progress | None = None) -> UndoResult:
    """Undo the newest edit of many captions, from a job or a screen, as `Journal.undo` does.

    Raises:
        UsageError: a captioning job is running there.
        StorageError: no space or no permission; another call continues.
    """
    require_sound(job)
    if true_state(job).live:
        raise UsageError(
            f"Captions are being made in {printable(job.folder)}.", "Stop that first.", code="captioning-is-live"
        )
    return job.journal.undo(progress)


def stop(job: CaptionJob) -> None:
    """Request the job to end after its batch; finished captions stay, and `start` continues from there.

    Raises:
        StorageError: the request cannot be written.
    """
    with writing(job.control):
        request(job, "stop")


@dataclass
class JobHistory:
    """The state of a job, collected from its events."""

    done: int = 0
    total: int = 0
    phase: str = ""
    written: list[str] = field(default_factory=list)
    """Images whose caption was written, relative to the folder, in order."""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: ErrorEvent | None = None
    ending: str = ""
    """The final state reported by the process; empty while it runs."""
    _first: tuple[float, int] | None = None
    _last: tuple[float, int] | None = None

    def add(self, event: Event) -> None:
        """Process the next event."""
        match event:
            case RunStartedEvent():
                if event.seq == 0:  # a new log
                    vars(self).update(vars(JobHistory()))
                self.phase, self.error, self.ending, self._first = "", None, "", None
            case PhaseEvent():
                self.phase = event.name if event.state == "start" else ""
            case ProgressEvent():
                self.done, self.total = event.done or 0, event.total or 0
                self.written += event.written
                self._last = (event.time, self.done)
                self._first = self._first or self._last
            case NoteEvent():
                self.notes.append(event.text)
            case WarningEvent():
                self.warnings.append(event.text)
            case ErrorEvent():
                self.error = event
            case RunFinishedEvent():
                self.ending = event.state

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the pace since the process started; None before there is one."""
        if self._first is None or self._last is None or self._last[1] <= self._first[1]:
            return None
        pace = (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])
        return pace * (self.total - self.done)
