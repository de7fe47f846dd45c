"""Captioning in the foreground: the captioner is another process, which is started here, followed and stopped."""

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
from engine.runs.events import Event, EventFollower
from engine.runs.follow import Ending, follow, skip_history
from engine.runs.launch import log_tail
from engine.runs.state import true_state
from engine.text import duration, plural, printable, shell_line
from tui import output
from tui.foreground import Stopper
from tui.narrators import Narrator, narrator

TRIED = 3
"""Pictures of a trial."""


class CaptionStopper(Stopper):
    """Ctrl-C while captions are made."""

    ASKED = "Asked to finish what is being described and end. Once more ends it at once."
    ENDING = "Ending at once; what was written stays."


class _Teller:
    """Tells a job's events: as they are with --json, else the progress in words of its own.

    Args:
        silent: they are only collected.
    """

    def __init__(self, job: CaptionJob, *, as_json: bool = False, silent: bool = False) -> None:
        self.history = JobHistory()
        self.proposed: list[dict[str, str]] = []
        self.as_json = as_json
        self._silent = silent
        self.narrator: Narrator = narrator(job, json=as_json)

    def __call__(self, event: Event) -> None:
        self.history.add(event)
        self.proposed += event.get("proposed", [])
        if self._silent or event.type == "control_ack":
            return
        if self.as_json:
            self.narrator(event)
        elif event.type == "progress":
            self._move()
        elif event.type not in ("run_finished", "phase") or event.get("name") == "load":
            self.narrator(event)

    def _move(self) -> None:
        done, total, left = self.history.done, self.history.total, self.history.seconds_left
        words = f"{done} of {plural(total, 'picture')}"
        time_left = f", {duration(left)} left" if left is not None and done < total else ""
        self.narrator.moving(f"{words}{time_left}", done / total if total else None)

    def close(self) -> None:
        """Nothing follows."""
        self.narrator.close()


def make(folder: Path, captioner: str, values: Mapping[str, Any], *, as_json: bool = False) -> int:
    """Start a captioner and follow it to its end; the exit code for this process.

    Raises:
        LoraSmithError: it cannot be started.
    """
    if true_state(CaptionJob.of(folder)).live:
        raise UsageError(
            f"Captions are being made in {printable(folder)} already.", f"Follow that with: {_command(folder)}"
        )
    follower, history = skip_history(CaptionJob.of(folder))
    job = jobs.start(folder, captioner, values)
    teller = _Teller(job, as_json=as_json)
    for event in history:
        teller.history.add(event)
    return _follow(job, teller, follower)


def go_on(folder: Path, *, as_json: bool = False) -> int:
    """Follow the job that is going on, or go on with the one that was cut, as it was begun.

    Raises:
        UsageError: there is neither.
    """
    job = CaptionJob.of(folder)
    if true_state(job).live:
        return _follow(job, _Teller(job, as_json=as_json))
    if not job.unfinished:
        raise UsageError(
            f"No captioning that could go on was begun in {printable(folder)}.",
            "Say who makes the captions with --with; `lorasmith caption` lists them.",
        )
    kind, options = job.settings()
    if not as_json:
        output.narrate(f"Going on with {kind.title}.")
    return make(folder, kind.name, options.model_dump(), as_json=as_json)


def try_out(folder: Path, captioner: str, values: Mapping[str, Any], *, as_json: bool = False) -> int:
    """Show what the first pictures would get; nothing is written.

    Raises:
        LoraSmithError: it cannot be started.
    """
    kind = kind_of(captioner)
    with tempfile.TemporaryDirectory(prefix="lorasmith-") as place:
        job = jobs.try_out(folder, captioner, values, TRIED, Path(place))
        teller = _Teller(job, silent=as_json)
        ending = _watched(job, teller)
        _explain(job, ending)
    if as_json:
        told = {"folder": str(folder), "captioner": kind.name, "proposed": teller.proposed}
        problem = " ".join(teller.history.error) if teller.history.error else None
        more = {"notes": teller.history.notes, "warnings": teller.history.warnings, "error": problem}
        output.json_result({**told, **more})
    else:
        for entry in teller.proposed:
            output.result(printable(entry["picture"]))
            if entry["before"]:
                output.result(f"  - {printable(entry['before'])}")
            output.result(f"  + {printable(entry['after'])}")
    output.narrate("Nothing was written.")
    return ending.exit_code


def undo(folder: Path, *, as_json: bool = False) -> int:
    """Take the newest edit of many captions back.

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
        output.narrate(f"left alone, as it was changed since: {printable(path)}")
    output.result(f"{plural(undone.changed, 'caption')} as before ({undone.what}).")
    if left:
        output.narrate(f"{plural(left, 'earlier change')} can be undone too.")
    return ExitCode.DONE


def _follow(job: CaptionJob, teller: _Teller, follower: EventFollower | None = None) -> int:
    """To its end, told in full."""
    ending = _watched(job, teller, follower)
    _explain(job, ending)
    written = len(set(teller.history.written))
    if not teller.as_json:
        output.result(f"{plural(written, 'caption')} written in {printable(job.folder)}.")
        if written:
            output.narrate(f"Undo: {_command(job.folder)} --undo. What was changed is noted in {job.journal.place}.")
    if job.unfinished:
        output.narrate(f"Go on with: {_command(job.folder)}")
    return ending.exit_code


def _watched(job: CaptionJob, teller: _Teller, follower: EventFollower | None = None) -> Ending:
    """To its end; Ctrl-C is a wish, a second one a signal."""
    with CaptionStopper(job, None) as stopper:
        try:
            ending = follow(job, teller, follower=follower, tick=stopper.tick)
        finally:
            teller.close()
    return ending if stopper.exit_code is None else Ending(ending.state, stopper.exit_code, ending.explanation)


def _explain(job: CaptionJob, ending: Ending) -> None:
    if ending.state.state == "lost":
        output.narrate(f"The captioner was lost: {printable(ending.state.detail)}. End of {printable(job.log_path)}:")
        for line in log_tail(job):
            output.narrate(f"  {printable(line)}")


def _command(folder: Path) -> str:
    return shell_line(("lorasmith", "caption", folder))
