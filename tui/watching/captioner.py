"""Following the captioning process of a folder for a screen."""

from __future__ import annotations

import threading
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from engine.captioning.captioner import KINDS
from engine.captioning.job import CaptionJob, JobHistory
from engine.runs.events import EventFollower, ProgressEvent
from engine.runs.phase import Phase
from engine.runs.state import true_state
from engine.text import duration, plural, printable
from tui.texts import _


@dataclass(frozen=True)
class JobLook:
    """The job of a folder at one moment."""

    state: str = ""
    """Like a run's state; empty where there was never a job."""
    title: str = ""
    """The captioner's."""
    history: JobHistory = field(default_factory=JobHistory)
    written: tuple[Path, ...] = ()
    """Images whose captions are new since the previous look."""
    detail: str = ""

    @property
    def live(self) -> bool:
        """Whether the process is running."""
        return self.state in ("starting", "running", "stopping")

    def sentence(self) -> str:
        """The state in one line; empty without a job."""
        done, total = self.history.done, self.history.total
        if self.live:
            return self._live_sentence()
        if self.state == "finished":
            if not total:
                return _("✓ {0}: every image has a caption.").format(self.title)
            written = _("✓ {0}: {1} written").format(self.title, plural(len(set(self.history.written)), _("caption")))
            warnings = len(self.history.warnings)
            return f"{written}, {plural(warnings, _('warning'))}." if warnings else f"{written}."
        if self.state == "failed":
            message = self.history.error.message if self.history.error is not None else self.detail
            return _("✗ {0}: {1}").format(self.title, printable(message))
        if self.state == "stopped":
            return _("! {0} was stopped at {1} of {2}.").format(self.title, done, plural(total, _("image")))
        if self.state in ("unknown", "damaged"):
            return _("! {0}: {1}.").format(self.title, printable(self.detail))
        if self.state == "lost":
            return _("! {0} ended unexpectedly at {1} of {2}.").format(self.title, done, plural(total, _("image")))
        return ""

    def _live_sentence(self) -> str:
        done, total = self.history.done, self.history.total
        if self.state == "stopping":
            return _("{0} is stopping.").format(self.title)
        if not self.history.phase:
            return _("{0} is starting.").format(self.title)
        if self.history.phase == Phase.LOAD:
            return _("{0} is loading its model.").format(self.title)
        words = _("{0}: {1} of {2}.").format(self.title, done, plural(total, _("image")))
        seconds = self.history.seconds_left
        return words if seconds is None else f"{words[:-1]}, {_('{0} left.').format(duration(seconds))}"


class JobWatch:
    """Reads the job of one folder. Reads files: use it in a thread; two looks never overlap."""

    def __init__(self, job: CaptionJob) -> None:
        self.job = job
        self._mutex = threading.Lock()
        self._follower = EventFollower(job.events_path)
        self._history = JobHistory()

    def look(self) -> JobLook:
        """Read what is new."""
        with self._mutex:
            if not self.job.is_run:
                return JobLook()
            state = true_state(self.job)  # older than the events: when it says "ended", they are all there
            written: list[str] = []
            while events := self._follower.poll():
                for event in events:
                    self._history.add(event)
                    if isinstance(event, ProgressEvent):
                        written += event.written
            kind = KINDS.get(str(self.job.meta.get("captioner")))
            return JobLook(
                state=state.state,
                title=kind.title if kind is not None else "",
                history=deepcopy(self._history),
                written=tuple(self.job.folder / name for name in written),
                detail=state.detail,
            )
