"""Captioning in the foreground: starting, following and stopping the captioner, which is another process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.captioning import job as jobs
from engine.captioning.captioner import kind_of
from engine.captioning.job import CaptionJob, JobHistory
from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.runs.events import (
    ControlAckEvent,
    Event,
    EventFollower,
    PhaseEvent,
    ProgressEvent,
    RunFinishedEvent,
)
from engine.runs.follow import Ending, follow, skip_history
from engine.runs.launch import log_tail
from engine.runs.phase import Phase
from engine.runs.state import true_state
from engine.text import duration, plural, printable, shell_line
from tui.shell import output
from tui.shell.event_printer import EventPrinter, printer
from tui.shell.foreground import Stopper

TRIED = 3
"""Images of a trial."""


class CaptionStopper(Stopper):
    """Ctrl-C while captions are made."""

    REQUESTED = "Asked to finish the current batch and stop. Once more stops it at once."
    ENDING = "Stopping at once; written captions stay."


class _JobPrinter:
    """Prints a job's events: unchanged with --json, else the progress as text.

    Args:
        silent: only collect the events.
    """

    def __init__(self, job: CaptionJob, *, as_json: bool = False, silent: bool = False) -> None:
        self.history = JobHistory()
        self.proposed: list[dict[str, str]] = []
        self.as_json = as_json
        self._silent = silent
        self.printer: EventPrinter = printer(job, json=as_json)

    def __call__(self, event: Event) -> None:
        self.history.add(event)
        if isinstance(event, ProgressEvent):
            self.proposed += [dict(proposal) for proposal in event.proposed]
        if self._silent or isinstance(event, ControlAckEvent):
            return
        if self.as_json:
            self.printer(event)
            return
        match event:
            case ProgressEvent():
                self._move()
            case PhaseEvent(name=Phase.LOAD):
                self.printer(event)
            case RunFinishedEvent() | PhaseEvent():
                pass
            case _:
                self.printer(event)

    def _move(self) -> None:
        done, total, left = self.history.done, self.history.total, self.history.seconds_left
        words = f"{done} of {plural(total, 'image')}"
        time_left = f", {duration(left)} left" if left is not None and done < total else ""
        self.printer.moving(f"{words}{time_left}", done / total if total else None)

    def close(self) -> None:
        """Nothing follows."""
        self.printer.close()


def make(folder: Path, captioner: str, values: Mapping[str, Any], *, as_json: bool = False) -> int:
    """Start a captioner and follow it to its end; the exit code for this process.

    Raises:
        LoraSmithError: it cannot be started.
    """
    if true_state(CaptionJob.of(folder)).live:
        raise UsageError(
            f"Captions are being made in {printable(folder)} already.",
            f"Follow that with: {_command(folder)}",
            code="captioning-is-live",
        )
    follower, history = skip_history(CaptionJob.of(folder))
    job = jobs.start(folder, captioner, values)
    printer = _JobPrinter(job, as_json=as_json)
    for event in history:
        printer.history.add(event)
    return _follow(job, printer, follower)


def continue_job(folder: Path, *, as_json: bool = False) -> int:
    """Follow the running job, or continue the interrupted one with its own options.

    Raises:
        UsageError: there is neither.
    """
    job = CaptionJob.of(folder)
    if true_state(job).live:
        return _follow(job, _JobPrinter(job, as_json=as_json))
    if not job.unfinished:
        raise UsageError(
            f"There is no captioning to continue in {printable(folder)}.",
            "Name a captioner with --with; `lorasmith caption` lists them.",
            code="captioning-missing",
        )
    kind, options = job.settings()
    if not as_json:
        output.message(f"Continuing with {kind.title}.")
    return make(folder, kind.name, options.model_dump(), as_json=as_json)


def try_out(folder: Path, captioner: str, values: Mapping[str, Any], *, as_json: bool = False) -> int:
    """Print captions for the first images; nothing is written.

    Raises:
        LoraSmithError: it cannot be started.
    """
    kind = kind_of(captioner)
    with tempfile.TemporaryDirectory(prefix="lorasmith-") as place:
        job = jobs.try_out(folder, captioner, values, TRIED, Path(place))
        printer = _JobPrinter(job, silent=as_json)
        ending = _watched(job, printer)
        _explain(job, ending)
    if as_json:
        summary = {"folder": str(folder), "captioner": kind.name, "proposed": printer.proposed}
        error = printer.history.error
        more = {
            "notes": printer.history.notes,
            "warnings": printer.history.warnings,
            "error": f"{error.message} {error.hint}".strip() if error else None,
            "error_code": error.code if error else None,
        }
        output.json_result({**summary, **more})
    else:
        for entry in printer.proposed:
            output.result(printable(entry["image"]))
            if entry["before"]:
                output.result(f"  - {printable(entry['before'])}")
            output.result(f"  + {printable(entry['after'])}")
    output.message("Nothing was written.")
    return ending.exit_code


def undo(folder: Path, *, as_json: bool = False) -> int:
    """Undo the newest edit of many captions.

    Raises:
        UsageError: captions are being made there.
        StorageError: no space or no permission.
    """
    job = CaptionJob.of(folder)
    undone = jobs.undo(job, output.counter("Undoing"))
    left = len(job.journal.edits())
    if as_json:
        names = [str(path) for path in undone.skipped]
        output.json_result({"what": undone.what, "restored": undone.changed, "skipped": names, "left": left})
        return ExitCode.DONE
    if not undone.what:
        output.result(f"Nothing to undo in {printable(folder)}.")
        return ExitCode.DONE
    for path in undone.skipped:
        output.message(f"not touched, as it was changed since: {printable(path)}")
    output.result(f"{plural(undone.changed, 'caption')} as before ({undone.what}).")
    if left:
        output.message(f"{plural(left, 'earlier change')} can be undone too.")
    return ExitCode.DONE


def _follow(job: CaptionJob, printer: _JobPrinter, follower: EventFollower | None = None) -> int:
    """Follow the job to its end, and print the result."""
    ending = _watched(job, printer, follower)
    _explain(job, ending)
    written = len(set(printer.history.written))
    if not printer.as_json:
        output.result(f"{plural(written, 'caption')} written in {printable(job.folder)}.")
        if written:
            output.message(f"Undo: {_command(job.folder)} --undo. Changes are recorded in {job.journal.place}.")
    if job.unfinished:
        output.message(f"Continue with: {_command(job.folder)}")
    return ending.exit_code


def _watched(job: CaptionJob, printer: _JobPrinter, follower: EventFollower | None = None) -> Ending:
    """Follow the job to its end; Ctrl-C requests a stop, a second one sends a signal."""
    with CaptionStopper(job, None) as stopper:
        try:
            ending = follow(job, printer, follower=follower, tick=stopper.tick)
        finally:
            printer.close()
    return ending if stopper.exit_code is None else Ending(ending.state, stopper.exit_code, ending.explanation)


def _explain(job: CaptionJob, ending: Ending) -> None:
    if ending.state.state == "lost":
        output.message(f"The captioner was lost: {printable(ending.state.detail)}. End of {printable(job.log_path)}:")
        for line in log_tail(job):
            output.message(f"  {printable(line)}")


def _command(folder: Path) -> str:
    return shell_line(("lorasmith", "caption", folder))
