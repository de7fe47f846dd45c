"""The captioning process: captions the images batch by batch, writes the files, reports progress."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from engine.captioning.captioner import Answer, Captioner, Subject
from engine.captioning.describing import Describer, batches_of
from engine.captioning.job import CaptionJob
from engine.captioning.writing import CaptionWriter, Proposal
from engine.dataset.caption_files import CaptionFile
from engine.errors import DataError, LoraSmithError
from engine.exit_codes import ExitCode
from engine.runs.control import ControlBox
from engine.runs.ending import print_line, report_end
from engine.runs.events import (
    EventLog,
    NoteEvent,
    PhaseEvent,
    ProgressEvent,
    RunStartedEvent,
    WarningEvent,
)
from engine.runs.phase import Phase
from engine.runs.state import StateWriter
from engine.text import plural, printable

MOST_FAILURES = 5
"""Failed images in a row after which the captioner is considered broken."""


class CaptioningError(LoraSmithError):
    """The captioner fails for every image."""

    title: ClassVar[str] = "Captioning"


class Work:
    """One run of the process. Expected errors are raised as LoraSmithError."""

    def __init__(self, job: CaptionJob) -> None:
        self.job = job
        self.events = EventLog(job.events_path)
        self.state = StateWriter(job)
        self.control = ControlBox(job, self.events)
        self.folder = job.folder
        self.done = self.total = 0
        """Images, including those of earlier runs of the job."""
        self._skipped = 0
        self._failures = 0
        """Failed images in a row."""
        self._usage: Callable[[], str] = lambda: ""
        self._signal = ""
        self._stopped = False

    def install_signals(self) -> None:
        """First SIGINT or SIGTERM: finish the batch and exit. Second: exit immediately. SIGHUP is ignored."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def should_stop(self) -> bool:
        """Whether to stop now."""
        for command in self.control.take():
            is_stop = command.name == "stop"
            self.control.acknowledge(command, "done" if is_stop else "refused: captioning can only be stopped")
            self._stopped = self._stopped or is_stop
        return self._stopped or bool(self._signal)

    def run(self) -> ExitCode:
        """Caption the images.

        Raises:
            LoraSmithError: an error that the user has to fix.
        """
        self.events.emit(RunStartedEvent(name=str(self.folder), pid=os.getpid()))
        self.state.update(force=True, state="running")
        kind, options = self.job.settings()
        writer = CaptionWriter(self.job, kind, options, self.log, self.warn)
        files = writer.todo()[: self.job.trial or None]
        if not files:
            self.log("Nothing to do: every image has a caption.")
            return self.finish("finished", ExitCode.DONE)
        # Set before the library that reads it is imported.
        offline = not getattr(options, "allow_download", False)
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = str(int(offline))
        captioner = kind.create()
        captioner.should_stop = self.should_stop
        self._phase(Phase.LOAD)
        captioner.load(options, self.log)
        self._phase(Phase.CAPTION)
        self.done, self.total = writer.before, writer.before + len(files)
        self._progress()
        self._usage = captioner.usage
        return self._caption_all(files, options.at_once, captioner, writer)

    def _caption_all(
        self, files: list[CaptionFile], at_once: int, captioner: Captioner, writer: CaptionWriter
    ) -> ExitCode:
        describer = Describer(captioner, self.log)
        for batch in batches_of(files, at_once, pixels=captioner.needs_pixels):
            if self.should_stop():
                return self.finish("stopped", ExitCode.STOPPED)
            for file, image in batch:
                if isinstance(image, str):
                    self._skip(file, f"{image}.")
            decoded = [(file, image) for file, image in batch if isinstance(image, Subject)]
            answers = describer.describe([image for _, image in decoded])
            ending = self._record_answers([file for file, _ in decoded], answers, writer)
            if ending is not None:
                raise ending
        if self.done < self.total:  # stopped while the captioner was waiting
            return self.finish("stopped", ExitCode.STOPPED)
        if self._skipped == self.total:
            raise DataError(
                f"None of the {plural(len(files), 'image')} gets a caption.",
                "The reasons are in the warnings.",
                code="no-caption-made",
            )
        return self.finish("finished", ExitCode.DONE)

    def _record_answers(
        self, files: list[CaptionFile], answers: list[Answer], writer: CaptionWriter
    ) -> LoraSmithError | None:
        """Write the captions and report failures; return the error that ends the job, if any."""
        texts: list[tuple[CaptionFile, str]] = []
        ending: LoraSmithError | None = None
        for file, answer in zip(files, answers, strict=True):
            if isinstance(answer, str):
                texts.append((file, answer))
                self._failures = 0
            elif isinstance(answer, DataError):
                self._skip(file, str(answer))
                self._failures += 1
                if self._failures == MOST_FAILURES:
                    hint = f"{answer.hint} The same command continues with the rest.".strip()
                    ending = ending or CaptioningError(
                        f"{MOST_FAILURES} images in a row: {answer.message}", hint, code=answer.code
                    )
            elif answer is not None:
                ending = ending or answer
        if self.job.trial:
            proposals = writer.proposals(texts)
            self._count(len(texts), len(proposals))
            self._progress(proposed=[self._proposal_json(proposal) for proposal in proposals])
        else:
            written = writer.write(texts)
            self._count(len(texts), len(written))
            self._progress(written)
        return ending

    def _skip(self, file: CaptionFile, reason: str) -> None:
        self.warn(f"{printable(file.image)}: {reason} It gets no caption.")
        self._count(1, 0)

    def _count(self, processed: int, written: int) -> None:
        self.done += processed
        self._skipped += processed - written

    def _proposal_json(self, proposal: Proposal) -> dict[str, str]:
        """A proposal in the format of the events."""
        name = str(proposal.file.image.relative_to(self.folder))
        return {"image": name, "before": proposal.file.text or "", "after": proposal.change.after}

    def _phase(self, phase: Phase) -> None:
        self.state.update(phase=phase)
        self.events.emit(PhaseEvent(name=phase, state="start"))

    def _progress(self, written: Sequence[Path] = (), **details: Any) -> None:
        names = [str(path.relative_to(self.folder)) for path in written]
        self.events.emit(
            ProgressEvent(phase=Phase.CAPTION, done=self.done, total=self.total, unit="image", written=names, **details)
        )
        self.state.update(step=self.done, max_train_steps=self.total)

    def log(self, text: str) -> None:
        """Log a decision and its reason."""
        self.events.emit(NoteEvent(text=text))
        print_line(text)

    def warn(self, text: str) -> None:
        """Report a problem that the user may want to fix."""
        self.events.emit(WarningEvent(code="caption", text=text))
        print_line(f"warning: {text}")

    def fail(self, error: LoraSmithError) -> ExitCode:
        """Report an error that the user has to fix, and finish."""
        state = "stopped" if error.exit_code == ExitCode.STOPPED else "failed"
        return self.finish(state, error.exit_code, **error.details)

    def finish(self, state: str, exit_code: ExitCode, **details: str) -> ExitCode:
        """Report usage and the final state."""
        if usage := self._usage():
            self.log(usage)
        return report_end(self.job, self.events, self.state, state, exit_code, self.done, **details)
