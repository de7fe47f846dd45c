"""Printing a run's events: a bar on a terminal, plain lines elsewhere, or the events as JSON."""

from __future__ import annotations

import sys
import time
import unicodedata
from pathlib import Path

from engine.runs import Event, RunDir, true_state
from engine.runs.events import (
    ChangedEvent,
    ControlAckEvent,
    ErrorEvent,
    NoteEvent,
    OomEvent,
    PhaseEvent,
    ProgressEvent,
    RetryEvent,
    RunFinishedEvent,
    RunStartedEvent,
    SampleEvent,
    SavedEvent,
    StepEvent,
    ValidationEvent,
    WarningEvent,
)
from engine.runs.layout import own_file
from engine.runs.pace import Pace
from engine.runs.phase import Phase
from engine.text import duration, printable
from tui.shell import output

LINE_SECONDS = 5.0
BAR_SECONDS = 0.1
_SHOWN_PHASES = (Phase.LOAD, Phase.CACHE, Phase.TRAIN)
"""Phases whose start has a line of its own."""


class EventPrinter:
    """Prints events as lines on stderr; steps and progress at most one in five seconds."""

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self.saved: list[str] = []
        self.samples: list[SampleEvent] = []
        self._sampled: int | None = -1
        """The step whose samples were printed."""
        self.validations: list[ValidationEvent] = []
        self._total: int | None = None
        self._last_line = 0.0
        self._phases: set[str] = set()
        self._pace = Pace()

    def __call__(self, event: Event) -> None:
        """Print one event."""
        self.collect(event)
        if isinstance(event, ProgressEvent) and not event.done:
            self._pace.add(event)  # nothing to show yet
        elif isinstance(event, (StepEvent, ProgressEvent)):
            self.moving(self._moving_text(event), self._share(event))
        elif (text := self._text(event)) is not None:
            self.line(text)

    def collect(self, event: Event) -> None:
        """Keep what is reported at the end of the run."""
        match event:
            case SavedEvent():
                self.saved.append(event.path)
            case SampleEvent():
                self.samples.append(event)
            case ValidationEvent():
                self.validations.append(event)
            case ChangedEvent():
                self._total = event.max_train_steps or self._total

    def show_history(self, events: list[Event]) -> None:
        """Print what happened before: the last start of the run, and of its steps only the last."""
        starts = [index for index, event in enumerate(events) if isinstance(event, RunStartedEvent)]
        for event in events:
            self.collect(event)
        for event in events[starts[-1] if starts else 0 :]:
            if not isinstance(event, (StepEvent, ProgressEvent)) and (text := self._text(event)) is not None:
                self.line(text)
        steps = [event for event in events if isinstance(event, StepEvent)]
        if steps:
            self.line(self._moving_text(steps[-1]))

    def line(self, text: str) -> None:
        """Print a line that stays."""
        output.message(printable(text))

    def moving(self, text: str, share: float | None) -> None:
        """Show the progress, with `share` done (0 to 1)."""
        now = time.monotonic()
        if now - self._last_line >= LINE_SECONDS or share == 1:
            self._last_line = now
            self.line(text)

    def close(self) -> None:
        """End the output."""

    def _share(self, event: StepEvent | ProgressEvent) -> float | None:
        done, total = (event.step, self.total()) if isinstance(event, StepEvent) else (event.done, event.total)
        return min(1.0, done / total) if done is not None and total else None

    def total(self) -> int | None:
        """Steps of the whole run, as soon as the trainer has reported it."""
        if self._total is None:
            self._total = true_state(self.run_dir).max_train_steps
        return self._total

    def _moving_text(self, event: StepEvent | ProgressEvent) -> str:
        if isinstance(event, ProgressEvent):
            return self._phase_text(event)
        parts = [f"step {_number(event.step)}" + (f" of {total}" if (total := self.total()) else "")]
        if (loss := event.loss_average) is not None:
            parts.append(f"loss {loss:.4f}")
        if (speed := event.images_per_second) is not None:
            parts.append(f"{speed:.2f} images/s")
        if (left := event.eta_seconds) is not None:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def _phase_text(self, event: ProgressEvent) -> str:
        self._pace.add(event)
        text = f"{Phase.label_of(event.phase)}: {event.done or 0} of {_number(event.total)} {event.unit}".rstrip()
        if (rate := self._pace.per_second) is not None:
            text += f", {rate:.1f} {event.unit}/s"
        if (left := self._pace.seconds_left) is not None and event.done != event.total:
            text += f", about {duration(left)} left"
        return text

    def _text(self, event: Event) -> str | None:
        if isinstance(event, SampleEvent):
            is_first, self._sampled = event.step != self._sampled, event.step
            return f"samples of step {_number(event.step)} in {Path(event.path).parent}" if is_first else None
        if not isinstance(event, PhaseEvent):
            return _line(event)
        name = event.name
        if event.state != "start" or name not in _SHOWN_PHASES or name in self._phases:
            return None
        self._phases.add(name)
        return f"{Phase.label_of(name)} ..."


def _line(event: Event) -> str | None:
    """An event as a line; None for events without one."""
    match event:
        case NoteEvent() | ChangedEvent():
            return event.text
        case WarningEvent():
            return f"warning: {event.text}"
        case ValidationEvent():
            losses = (("validation loss", "loss", event.loss),
                      ("loss on training images", "train_loss", event.train_loss))  # fmt: skip
            parts = [f"{name} {'not a number' if value is None else format(value, '.4f')}"
                     for name, key, value in losses if key in event.data]  # fmt: skip
            return f"{', '.join(parts)} at step {_number(event.step)}" if parts else None
        case SavedEvent():
            size = f" ({event.bytes / 2**20:.1f} MiB)" if event.bytes is not None else ""
            return f"saved and verified {event.path}{size}, step {_number(event.step)}"
        case ControlAckEvent() if not event.repeats_change:
            name = "setting" if event.command == "set" else event.command.replace("_", " ")
            return f"{name}: {event.result}"
        case OomEvent():
            return f"out of memory at step {event.step or 0}: {event.message}"
        case RetryEvent():
            return f"continues: {event.text}"
        case ErrorEvent():
            return f"{event.title or 'Error'}: {event.message}{f' {event.hint}' if event.hint else ''}"
        case RunFinishedEvent():
            return f"{event.state or 'ended'} at step {_number(event.step)}"
    return None


def _number(number: int | None) -> str:
    return "?" if number is None else str(number)


class BarPrinter(EventPrinter):
    """The same, and below it one line with a bar that is redrawn."""

    def __init__(self, run_dir: RunDir) -> None:
        super().__init__(run_dir)
        self._drawn = ""
        self._drawn_at = 0.0

    def line(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        sys.stderr.write("\r\x1b[K")
        super().line(text)
        self._draw()

    def moving(self, text: str, share: float | None) -> None:
        """Redraw the bar, at most ten times a second."""
        now = time.monotonic()
        if now - self._drawn_at < BAR_SECONDS and share != 1:
            return
        self._drawn_at = now
        self._drawn = bar_line(text, share, output.width(sys.stderr) - 1)
        self._draw()

    def _draw(self) -> None:
        sys.stderr.write(f"\r\x1b[K{self._drawn}")
        sys.stderr.flush()

    def close(self) -> None:
        """Leave the last bar on its line."""
        if self._drawn:
            sys.stderr.write("\n")
            sys.stderr.flush()
            self._drawn = ""


def bar_line(text: str, share: float | None, columns: int) -> str:
    """`text` with a bar before it, no wider than `columns`; the bar is left out where it is narrow."""
    text = printable(text)
    if share is None or columns < len(text) + 12:
        return clip(text, columns)
    inner = min(30, columns - len(text) - 9)
    full = int(share * inner)
    return clip(f"[{'#' * full}{'.' * (inner - full)}] {share * 100:3.0f}% {text}", columns)


def clip(text: str, columns: int) -> str:
    """`text` cut so that it takes at most `columns` cells; wide characters take two, combining ones none."""
    used = 0
    for index, character in enumerate(text):
        cells = 2 if unicodedata.east_asian_width(character) in "WF" else 0 if unicodedata.combining(character) else 1
        if used + cells > columns:
            return text[:index]
        used += cells
    return text


class JsonPrinter(EventPrinter):
    """The events as JSON on stdout, one per line."""

    def __call__(self, event: Event) -> None:
        """Print one event."""
        self.collect(event)
        output.result(event.as_json())


def printer(run_dir: RunDir, *, json: bool = False, plain: bool = False) -> EventPrinter:
    """The printer to use: JSON events with `json`, a bar where stderr is a terminal, else lines."""
    if json:
        return JsonPrinter(run_dir)
    return BarPrinter(run_dir) if not plain and output.is_terminal(sys.stderr) else EventPrinter(run_dir)


def last_saved(printer: EventPrinter) -> Path | None:
    """The newest LoRA of the run that still exists."""
    paths = (own_file(printer.run_dir.path, path) for path in reversed(printer.saved))
    return next((path for path in paths if path is not None), None)
