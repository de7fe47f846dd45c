"""What a run's events amount to: where it stands, its curves, its files, what went wrong. For any viewer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.reading import is_regular
from engine.runs.curve import Curve
from engine.runs.events import Event
from engine.runs.layout import RunDir, own_file, own_files
from engine.runs.values import count, number

if TYPE_CHECKING:
    from engine.runs.contact import Samples

KEPT_EVENTS = 500
KEPT_ANSWERS = 200
DEEPEST = 20
"""Phases inside each other that are kept; a run has three."""
SIZES = ("requested", "free", "total", "allocated", "reserved")


@dataclass(frozen=True)
class Progress:
    """How far a phase is."""

    phase: str
    done: int
    total: int
    unit: str


@dataclass(frozen=True)
class SavedFile:
    """A LoRA that the run has saved and checked."""

    path: Path
    """As the trainer named it."""
    size: int | None
    """Bytes"""
    step: int | None
    epoch: int | None
    held_out: float | None = None
    """The held-out loss of that step."""


@dataclass(frozen=True)
class OutOfMemory:
    """Where and how the memory ran out. Sizes in bytes, None where nobody told."""

    phase: str
    step: int
    message: str
    device: str
    requested: int | None = None
    free: int | None = None
    total: int | None = None
    allocated: int | None = None
    reserved: int | None = None


class RunHistory:
    """Folds events in order. A resumed run continues its log: what was redone replaces what it was before.

    Memory is bounded but for held-out losses and sample names, of which a run has few.
    """

    def __init__(self) -> None:
        self.name = ""
        self.step = 0
        self.epoch = 0
        self.max_train_steps: int | None = None
        self.epochs: int | None = None
        self.updates_per_epoch: int | None = None
        self.eta_seconds: float | None = None
        """Of training, samples, saves and held-out losses to come; None before the first step of this life."""
        self.images_per_second: float | None = None
        self.seconds_per_step: float | None = None
        self.rates: dict[str, float] = {}
        """Learning rate by group."""
        self.memory: dict[str, float] = {}
        """Of the trainer: allocated_gib, reserved_gib, peak_gib, alloc_retries, or resident_gib."""
        self.raw, self.smoothed = Curve(), Curve()
        self.held_out: dict[int, float] = {}
        """Loss by step."""
        self.prompts: dict[int, str] = {}
        self.pictures: dict[tuple[int, int], str] = {}
        """(prompt's index, step) to the path as the trainer named it."""
        self.drawn = 0
        """Samples drawn so far, those drawn twice included."""
        self.saved: dict[str, Event] = {}
        """The newest `saved` event of each path."""
        self.state_step: int | None = None
        """Step of the newest full state."""
        self.progress: Progress | None = None
        self.events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        """The newest ones but for steps and progress."""
        self.answers: dict[str, str] = {}
        """The trainer's answer to a wish, by the wish's id; the newest ones."""
        self.warning: Event | None = None
        """The newest one of this life."""
        self.oom: OutOfMemory | None = None
        self.error: Mapping[str, str] | None = None
        """title, message, hint of what ended this life."""
        self.ending: str | None = None
        """finished, stopped or failed, once this life has ended by its own decision."""
        self.lives = 0
        self._phases: list[str] = []
        self._tellers: dict[str, Callable[[Event], None]] = {
            "run_started": self._begin,
            "phase": self._enter,
            "progress": self._advance,
            "validation": self._validate,
            "sample": self._draw,
            "saved": self._save,
            "state_saved": self._keep_state,
            "warning": self._warn,
            "control_ack": self._answer,
            "oom": self._run_out,
            "error": self._fail,
            "run_finished": self._end,
        }

    @property
    def phase(self) -> str:
        """The innermost phase that is going on: load, cache, train, sample, save, validate; empty between two."""
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
        """Take in the events that follow."""
        newest_step = None
        for event in events:
            if event.type == "step":
                self._count(event)
                newest_step = event
                continue
            if teller := self._tellers.get(event.type):
                teller(event)
            if event.type == "run_started":
                newest_step = None
            if event.type != "progress":
                self.events.append(event)
        if newest_step is not None:
            self._note_pace(newest_step)

    def _begin(self, event: Event) -> None:
        self.name = event.get("name", self.name)
        self.lives += 1
        self._phases.clear()
        self.progress = self.warning = self.oom = self.error = self.ending = self.eta_seconds = None
        self.max_train_steps = event.get("max_train_steps") or self.max_train_steps

    def _enter(self, event: Event) -> None:
        name = event.get("name", "")
        self.progress = None
        if event.get("state") == "start":
            self._phases = [*self._phases[-DEEPEST:], name]
            for key in ("max_train_steps", "epochs", "updates_per_epoch"):
                if (value := event.get(key)) is not None:
                    setattr(self, key, value)
        elif name in self._phases:
            while self._phases.pop() != name:
                pass

    def _advance(self, event: Event) -> None:
        done, total = (event.get(key) or 0 for key in ("done", "total"))
        self.progress = Progress(event.get("phase", ""), done, total, event.get("unit", ""))

    def _count(self, event: Event) -> None:
        data = event.data
        step = count(data.get("step"))
        if step is None:
            return
        self.step = step
        self.oom = None  # it went on
        for curve, key in ((self.raw, "loss"), (self.smoothed, "loss_average")):
            if (value := number(data.get(key))) is not None:
                curve.add(step, value)

    def _note_pace(self, event: Event) -> None:
        """What only the newest step is asked for."""
        self.epoch = event.get("epoch") or self.epoch
        for key in ("eta_seconds", "images_per_second", "seconds_per_step"):
            setattr(self, key, event.get(key))
        self.rates, self.memory = event.get("lr", {}), event.get("memory", {})

    def _validate(self, event: Event) -> None:
        step, value = event.get("step"), event.get("loss")
        if step is not None and value is not None:
            self.held_out[step] = value

    def _draw(self, event: Event) -> None:
        index, step = event.get("index") or 0, event.get("step") or 0
        self.prompts[index] = event.get("prompt", "")
        self.pictures[index, step] = event.get("path", "")
        self.drawn += 1

    def _save(self, event: Event) -> None:
        path = event.get("path", "")
        self.saved.pop(path, None)
        self.saved[path] = event

    def _keep_state(self, event: Event) -> None:
        self.state_step = event.get("step")

    def _warn(self, event: Event) -> None:
        self.warning = event

    def _answer(self, event: Event) -> None:
        self.answers[event.get("id", "")] = event.get("result", "")
        while len(self.answers) > KEPT_ANSWERS:
            del self.answers[next(iter(self.answers))]

    def _run_out(self, event: Event) -> None:
        phase, message, device = (event.get(key, "") for key in ("phase", "message", "device"))
        sizes = {key: event.get(key) for key in SIZES}
        self.oom = OutOfMemory(phase, event.get("step") or 0, message, device, **sizes)

    def _fail(self, event: Event) -> None:
        self.error = {key: event.get(key, "") for key in ("title", "message", "hint")}

    def _end(self, event: Event) -> None:
        self.ending = event.get("state", "")
        self.step = event.get("step") or self.step
        self._phases.clear()
        self.progress = None

    def samples(self, run_dir: RunDir) -> Samples:
        """The pictures that are still there, by prompt and step."""
        from engine.runs.contact import Samples  # it draws: 50 ms

        found = {key: path for key, named in self.pictures.items() if (path := own_file(run_dir.samples, named))}
        return Samples({index: self.prompts[index] for index, _ in found}, found)

    def files(self, run_dir: RunDir) -> list[SavedFile]:
        """The LoRA files that are still there, in the order of their steps; one that no event tells of comes last."""
        files: dict[Path, SavedFile] = {}
        for named, event in self.saved.items():
            path = own_file(run_dir.path, named)
            if path is not None:
                step = event.get("step")
                held_out = None if step is None else self.held_out.get(step)
                files[path] = SavedFile(path, path.stat().st_size, step, event.get("epoch"), held_out)
        for path in own_files(run_dir.path, run_dir.name):
            if path.suffix == ".safetensors" and path not in files and is_regular(path):
                files[path] = SavedFile(path, path.stat().st_size, None, None)
        return sorted(files.values(), key=lambda file: math.inf if file.step is None else file.step)
