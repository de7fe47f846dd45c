"""The captioning process: goes through the pictures batch by batch, writes each caption, tells how far it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from engine.captioning.captioner import Answer, Captioner, Subject
from engine.captioning.describing import Describer, batches_of
from engine.captioning.job import CaptionJob
from engine.captioning.writing import CaptionWriter, Proposal
from engine.dataset.caption_files import CaptionFile
from engine.errors import DataError, LoraSmithError, StorageError
from engine.exit_codes import ExitCode
from engine.runs.control import ControlBox
from engine.runs.events import EventLog
from engine.runs.state import StateWriter, write_exit
from engine.text import plural, printable

MOST_FAILURES = 5
"""Pictures in a row that cannot be described: then it is not the pictures."""


class CaptioningError(LoraSmithError):
    """The captioner fails, whatever the picture."""

    title: ClassVar[str] = "Captioning"


class Work:
    """One life of the process. What the person's machine says no to is raised as LoraSmithError."""

    def __init__(self, job: CaptionJob) -> None:
        self.job = job
        self.events = EventLog(job.events_path)
        self.state = StateWriter(job)
        self.control = ControlBox(job, self.events)
        self.folder = job.folder
        self.done = self.total = 0
        """Pictures, those of earlier lives of the job too."""
        self._skipped = 0
        self._failures = 0
        """Pictures in a row that the captioner could not describe."""
        self._used: Callable[[], str] = lambda: ""
        self._signal = ""
        self._stopped = False

    def install_signals(self) -> None:
        """First SIGINT or SIGTERM: finish the batch and end. Second: end now. SIGHUP is ignored."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def should_stop(self) -> bool:
        """Whether to end at this point."""
        for command in self.control.take():
            wished = command.name == "stop"
            self.control.acknowledge(command, "done" if wished else "refused: captioning can only be stopped")
            self._stopped = self._stopped or wished
        return self._stopped or bool(self._signal)

    def run(self) -> ExitCode:
        """Caption what is to be captioned.

        Raises:
            LoraSmithError: what the person must mend.
        """
        self.events.emit("run_started", name=str(self.folder), pid=os.getpid())
        self.state.update(force=True, state="running")
        kind, options = self.job.settings()
        writer = CaptionWriter(self.job, kind, options, self.say, self.warn)
        files = writer.todo()[: self.job.trial or None]
        if not files:
            self.say("Nothing to do: every picture has a caption.")
            return self.finish("finished", ExitCode.DONE)
        # Said before the library that reads it is imported.
        offline = not getattr(options, "allow_download", False)
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = str(int(offline))
        captioner = kind.make()
        captioner.should_stop = self.should_stop
        self._phase("load")
        captioner.load(options, self.say)
        self._phase("caption")
        self.done, self.total = writer.before, writer.before + len(files)
        self._progress()
        self._used = captioner.used
        return self._go_through(files, options.at_once, captioner, writer)

    def _go_through(
        self, files: list[CaptionFile], at_once: int, captioner: Captioner, writer: CaptionWriter
    ) -> ExitCode:
        describer = Describer(captioner, self.say)
        for batch in batches_of(files, at_once, pixels=captioner.sees):
            if self.should_stop():
                return self.finish("stopped", ExitCode.STOPPED)
            for file, picture in batch:
                if isinstance(picture, str):
                    self._skip(file, f"{picture}.")
            good = [(file, picture) for file, picture in batch if isinstance(picture, Subject)]
            answers = describer.describe([picture for _, picture in good])
            ending = self._take([file for file, _ in good], answers, writer)
            if ending is not None:
                raise ending
        if self.done < self.total:  # the captioner was stopped while it waited
            return self.finish("stopped", ExitCode.STOPPED)
        if self._skipped == self.total:
            raise DataError(f"None of the {plural(len(files), 'picture')} gets a caption.", "The warnings say why.")
        return self.finish("finished", ExitCode.DONE)

    def _take(self, files: list[CaptionFile], answers: list[Answer], writer: CaptionWriter) -> LoraSmithError | None:
        """Write what was said, name what was not; what the job ends with, if it does."""
        said: list[tuple[CaptionFile, str]] = []
        ending: LoraSmithError | None = None
        for file, answer in zip(files, answers, strict=True):
            if isinstance(answer, str):
                said.append((file, answer))
                self._failures = 0
            elif isinstance(answer, DataError):
                self._skip(file, str(answer))
                self._failures += 1
                if self._failures == MOST_FAILURES:
                    hint = f"{answer.hint} The same command goes on with the rest.".strip()
                    ending = ending or CaptioningError(f"{MOST_FAILURES} pictures in a row: {answer.message}", hint)
            elif answer is not None:
                ending = ending or answer
        if self.job.trial:
            proposals = writer.proposals(said)
            self._count(len(said), len(proposals))
            self._progress(proposed=[self._told(one) for one in proposals])
        else:
            written = writer.write(said)
            self._count(len(said), len(written))
            self._progress(written)
        return ending

    def _skip(self, file: CaptionFile, reason: str) -> None:
        self.warn(f"{printable(file.picture)}: {reason} It gets no caption.")
        self._count(1, 0)

    def _count(self, handled: int, written: int) -> None:
        self.done += handled
        self._skipped += handled - written

    def _told(self, proposal: Proposal) -> dict[str, str]:
        """A proposal as the events tell it."""
        name = str(proposal.file.picture.relative_to(self.folder))
        return {"picture": name, "before": proposal.file.text or "", "after": proposal.noted.after}

    def _phase(self, name: str) -> None:
        self.state.update(phase=name)
        self.events.emit("phase", name=name, state="start")

    def _progress(self, written: Sequence[Path] = (), **more: Any) -> None:
        names = [str(path.relative_to(self.folder)) for path in written]
        self.events.emit(
            "progress", phase="caption", done=self.done, total=self.total, unit="picture", written=names, **more
        )
        self.state.update(step=self.done, max_train_steps=self.total)

    def say(self, text: str) -> None:
        """Tell a decision and its reason."""
        self.events.emit("note", text=text)
        _print(text)

    def warn(self, text: str) -> None:
        """Tell what the person may want to mend."""
        self.events.emit("warning", code="caption", text=text)
        _print(f"warning: {text}")

    def fail(self, error: LoraSmithError) -> ExitCode:
        """Tell what the person must mend, and end."""
        state = "stopped" if error.exit_code == ExitCode.STOPPED else "failed"
        return self.finish(state, error.exit_code, title=error.title, message=error.message, hint=error.hint)

    def finish(self, state: str, code: ExitCode, **details: str) -> ExitCode:
        """Tell what it has cost and how it ended: first in exit.json, then in the events."""
        if used := self._used():
            self.say(used)
        with suppress(StorageError):  # the events tell it too
            write_exit(self.job, state, code, self.done, **details)
        if details:
            self.events.emit("error", **details)
            _print(f"{details['title']}: {details['message']} {details['hint']}".strip())
        self.state.update(force=True, state=state, phase="")
        self.events.emit("run_finished", state=state, exit_code=int(code), step=self.done)
        self.events.sync()
        return code


def _print(text: str) -> None:
    """A line in the log; a full disk must not end the job."""
    with suppress(OSError):
        print(text, flush=True)
