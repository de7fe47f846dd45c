"""The state of a run from its events: its step, curves, files, errors. For any viewer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.reading import is_regular
from engine.runs.curve import Curve
from engine.runs.events import (
    ChangedEvent,
    ControlAckEvent,
    ErrorEvent,
    Event,
    OomEvent,
    PhaseEvent,
    ProgressEvent,
    RunFinishedEvent,
    RunStartedEvent,
    SampleEvent,
    SavedEvent,
    StateSavedEvent,
    StepEvent,
    ValidationEvent,
    WarningEvent,
)
from engine.runs.layout import RunDir, own_file, own_files
from engine.runs.pace import Pace
from engine.runs.shortage import Shortage
from engine.runs.working_time import WorkingTime

if TYPE_CHECKING:
    from engine.runs.contact import Samples


KEPT_EVENTS = 500
KEPT_ANSWERS = 200
DEEPEST = 20
"""Nested phases that are kept; a run has three."""


@dataclass(frozen=True)
class Progress:
    """Progress of a phase."""

    phase: str
    done: int
    total: int
    unit: str
    per_second: float | None = None
    """Its pace; None as long as it is unknown."""
    seconds_left: float | None = None


@dataclass(frozen=True)
class SavedFile:
    """A LoRA that the run has saved and checked."""

    path: Path
    """As the trainer named it."""
    size: int | None
    """Bytes"""
    step: int | None
    epoch: int | None
    validation_loss: float | None = None
    """Of that step."""


class RunHistory:
    """Accumulates events in order. A resumed run continues its log: repeated steps replace the earlier ones.

    Memory is bounded except for validation losses and sample names, of which a run has few.
    """

    def __init__(self) -> None:
        self.name = ""
        self.step = 0
        self.epoch = 0
        self.max_train_steps: int | None = None
        self.epochs: int | None = None
        self.updates_per_epoch: int | None = None
        self.eta_seconds: float | None = None
        """Of remaining training, samples, saves and validation; None before the first step since the last start."""
        self.images_per_second: float | None = None
        self.seconds_per_step: float | None = None
        self.rates: Mapping[str, float] = {}
        """Learning rate by group."""
        self.memory: Mapping[str, float] = {}
        """Of the trainer: allocated_gib, reserved_gib, peak_gib, alloc_retries, or resident_gib."""
        self.raw, self.smoothed = Curve(), Curve()
        self.validation_losses: dict[int, float] = {}
        """Loss by step."""
        self.prompts: dict[int, str] = {}
        self.images: dict[tuple[int, int], str] = {}
        """(prompt's index, step) to the path as the trainer named it."""
        self.sample_count = 0
        """Samples generated so far; one generated twice counts twice."""
        self.saved: dict[str, SavedEvent] = {}
        """The newest `saved` event of each path."""
        self.state_step: int | None = None
        """Step of the newest full state."""
        self.progress: Progress | None = None
        self.events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        """The newest ones, without steps and progress."""
        self.answers: dict[str, str] = {}
        """The trainer's answer to a command, by the command's id; the newest ones."""
        self.changes: dict[str, str] = {}
        """The last report about each setting that changed during the run, by its key."""
        self.warning: WarningEvent | None = None
        """The newest one since the last start."""
        self.oom: Shortage | None = None
        self.error: Mapping[str, str] | None = None
        """title, message, hint of the error that ended the run since its last start."""
        self.ending: str | None = None
        """finished, stopped or failed, once the process has ended regularly."""
        self.start_count = 0
        self.pid: int | None = None
        """The process of the newest start."""
        self.worked = WorkingTime()
        self._phases: list[str] = []
        self._pace = Pace()

    @property
    def phase(self) -> str:
        """The innermost current phase: load, cache, train, sample, save, validate; empty between two."""
        return self._phases[-1] if self._phases else ""

    @property
    def loss(self) -> float | None:
        """The smoothed loss."""
        return self.smoothed.last.last if self.smoothed.last else None

    @property
    def raw_loss(self) -> float | None:
        """The loss of the newest step."""
        return self.raw.last.last if self.raw.last else None

    def feed(self, events: Iterable[Event]) -> None:
        """Add the next events."""
        newest_step: StepEvent | None = None
        for event in events:
            self.worked.take(event)
            if isinstance(event, StepEvent):
                self._add_step(event)
                newest_step = event
                continue
            self._add(event)
            if isinstance(event, RunStartedEvent):
                newest_step = None
            if not isinstance(event, ProgressEvent):
                self.events.append(event)
        if newest_step is not None:
            self._update_pace(newest_step)

    def _add(self, event: Event) -> None:
        match event:
            case RunStartedEvent():
                self._start(event)
            case PhaseEvent():
                self._enter(event)
            case ProgressEvent():
                self._pace.add(event)
                pace = self._pace.per_second, self._pace.seconds_left
                self.progress = Progress(event.phase, event.done or 0, event.total or 0, event.unit, *pace)
            case ValidationEvent(step=int(step), loss=float(loss)):
                self.validation_losses[step] = loss
            case SampleEvent():
                self._add_sample(event)
            case SavedEvent(path=path):
                self.saved.pop(path, None)
                self.saved[path] = event
            case StateSavedEvent():
                self.state_step = event.step
            case WarningEvent():
                self.warning = event
            case ControlAckEvent():
                _keep(self.answers, event.id, event.result)
            case ChangedEvent():
                self._update_length(event)
                _keep(self.changes, event.key, event.text)
            case OomEvent():
                self.oom = event.shortage
            case ErrorEvent():
                self.error = {"title": event.title, "message": event.message, "hint": event.hint}
            case RunFinishedEvent():
                self._end(event)

    def _start(self, event: RunStartedEvent) -> None:
        self.name = event.name or self.name
        self.start_count += 1
        self.pid = event.pid
        self._phases.clear()
        self.progress = self.warning = self.oom = self.error = self.ending = self.eta_seconds = None

    def hand_over(self, pid: int | None) -> None:
        """The process that has the run now. Until it reports its start, nothing is known about what it does; a former
        process that was killed reported no end of what it did."""
        if pid and self.pid and pid != self.pid:
            self._phases.clear()
            self.progress = self.eta_seconds = None

    def _enter(self, event: PhaseEvent) -> None:
        self.progress = None
        if event.state == "start":
            self._phases = [*self._phases[-DEEPEST:], event.name]
            self._update_length(event)
            if event.updates_per_epoch is not None:
                self.updates_per_epoch = event.updates_per_epoch
        elif event.name in self._phases:
            while self._phases.pop() != event.name:
                pass

    def _update_length(self, event: PhaseEvent | ChangedEvent) -> None:
        if event.max_train_steps is not None:
            self.max_train_steps = event.max_train_steps
        if event.epochs is not None:
            self.epochs = event.epochs

    def _add_step(self, event: StepEvent) -> None:
        step = event.step
        if step is None:
            return
        self.step = step
        self.oom = None  # the run continues
        if (loss := event.loss) is not None:
            self.raw.add(step, loss)
        if (average := event.loss_average) is not None:
            self.smoothed.add(step, average)

    def _update_pace(self, event: StepEvent) -> None:
        """The values of which only the newest step's count."""
        self.epoch = event.epoch or self.epoch
        self.eta_seconds, self.images_per_second = event.eta_seconds, event.images_per_second
        self.seconds_per_step, self.rates, self.memory = event.seconds_per_step, event.lr, event.memory

    def _add_sample(self, event: SampleEvent) -> None:
        index, step = event.index or 0, event.step or 0
        self.prompts[index] = event.prompt
        self.images[index, step] = event.path
        self.sample_count += 1

    def _end(self, event: RunFinishedEvent) -> None:
        self.ending = event.state
        self.step = event.step or self.step
        self._phases.clear()
        self.progress = None

    def samples(self, run_dir: RunDir) -> Samples:
        """The images that still exist, by prompt and step."""
        from engine.runs.contact import Samples  # it imports Pillow: 50 ms

        images = {key: path for key, name in self.images.items() if (path := own_file(run_dir.samples, name))}
        return Samples({index: self.prompts[index] for index, _ in images}, images)

    def files(self, run_dir: RunDir) -> list[SavedFile]:
        """The LoRA files that still exist, in the order of their steps; those without an event come last."""
        files: dict[Path, SavedFile] = {}
        for name, event in self.saved.items():
            path = own_file(run_dir.path, name)
            if path is not None:
                validation_loss = None if event.step is None else self.validation_losses.get(event.step)
                files[path] = SavedFile(path, path.stat().st_size, event.step, event.epoch, validation_loss)
        for path in own_files(run_dir.path, run_dir.name):
            if path.suffix == ".safetensors" and path not in files and is_regular(path):
                files[path] = SavedFile(path, path.stat().st_size, None, None)
        return sorted(files.values(), key=lambda file: math.inf if file.step is None else file.step)


def _keep(table: dict[str, str], key: str, value: str) -> None:
    """Append a value; only the newest `KEPT_ANSWERS` are kept."""
    table[key] = value
    while len(table) > KEPT_ANSWERS:
        del table[next(iter(table))]
