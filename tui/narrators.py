"""What a person sees of a run's events: a bar on a terminal, plain lines elsewhere, or the events themselves."""

from __future__ import annotations

import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

from engine.runs import Event, RunDir, true_state
from engine.runs.layout import own_file
from engine.text import duration, printable
from tui import output

LINE_SECONDS = 5.0
BAR_SECONDS = 0.1
_SHOWN_PHASES = {"load": "loading", "cache": "caching", "train": "training"}


class Narrator:
    """Tells events as lines on stderr; steps and progress at most one in five seconds."""

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self.saved: list[str] = []
        self.samples: list[Event] = []
        self.validations: list[Event] = []
        self._total: int | None = None
        self._last_line = 0.0
        self._phases: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Tell one event."""
        self.collect(event)
        if event.type in ("step", "progress"):
            self.moving(self._moving_text(event), self._share(event))
        elif (text := self._text(event)) is not None:
            self.line(text)

    def collect(self, event: Event) -> None:
        """Keep what the end of the run is told with."""
        if event.type == "saved":
            self.saved.append(event.get("path", ""))
        elif event.type == "sample":
            self.samples.append(event)
        elif event.type == "validation":
            self.validations.append(event)

    def tell_history(self, events: list[Event]) -> None:
        """Tell what happened before: the last part of the run, without its steps but for the last."""
        starts = [index for index, event in enumerate(events) if event.type == "run_started"]
        for event in events:
            self.collect(event)
        for event in events[starts[-1] if starts else 0 :]:
            if event.type not in ("step", "progress") and (text := self._text(event)) is not None:
                self.line(text)
        steps = [event for event in events if event.type == "step"]
        if steps:
            self.line(self._moving_text(steps[-1]))

    def line(self, text: str) -> None:
        """One line that stays."""
        output.narrate(printable(text))

    def moving(self, text: str, share: float | None) -> None:
        """Where the run is, `share` of the way (0 to 1)."""
        now = time.monotonic()
        if now - self._last_line >= LINE_SECONDS or share == 1:
            self._last_line = now
            self.line(text)

    def close(self) -> None:
        """Nothing follows."""

    def _share(self, event: Event) -> float | None:
        if event.type == "step":
            done, total = event.get("step"), self.total()
        else:
            done, total = event.get("done"), event.get("total")
        return min(1.0, done / total) if done is not None and total else None

    def total(self) -> int | None:
        """Steps of the whole run, as soon as the trainer has said it."""
        if self._total is None:
            self._total = true_state(self.run_dir).max_train_steps
        return self._total

    def _moving_text(self, event: Event) -> str:
        if event.type == "progress":
            phase = event.get("phase", "")
            done, total = event.get("done", 0), event.get("total", "?")
            return f"{_SHOWN_PHASES.get(phase, phase)}: {done} of {total} {event.get('unit', '')}".rstrip()
        parts = [f"step {event.get('step', '?')}" + (f" of {total}" if (total := self.total()) else "")]
        for key, form in (("loss_average", "loss {:.4f}"), ("images_per_second", "{:.2f} pictures/s")):
            if (value := event.get(key)) is not None:
                parts.append(form.format(value))
        if (left := event.get("eta_seconds")) is not None:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def _text(self, event: Event) -> str | None:
        teller = _TELLERS.get(event.type)
        if event.type != "phase":
            return teller(event) if teller else None
        name = event.get("name", "")
        if event.get("state") != "start" or name not in _SHOWN_PHASES or name in self._phases:
            return None
        self._phases.add(name)
        return f"{_SHOWN_PHASES[name]} ..."


def _tell_validation(event: Event) -> str:
    return f"held-out loss {_number(event.get('loss'))} at step {event.get('step', '?')}"


def _tell_saved(event: Event) -> str:
    size = event.get("bytes")
    amount = f" ({size / 2**20:.1f} MiB)" if size is not None else ""
    return f"saved {event.get('path', '')}{amount}, step {event.get('step', '?')}, read back and checked"


def _tell_error(event: Event) -> str:
    hint = f" {event.get('hint')}" if event.get("hint") else ""
    return f"{event.get('title', 'Error')}: {event.get('message', '')}{hint}"


def _tell_finished(event: Event) -> str:
    return f"{event.get('state', 'ended')} at step {event.get('step', '?')}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


_TELLERS: dict[str, Callable[[Event], str]] = {
    "note": lambda event: str(event.get("text", "")),
    "warning": lambda event: f"warning: {event.get('text', '')}",
    "validation": _tell_validation,
    "sample": lambda event: f"sample {event.get('path', '')}",
    "saved": _tell_saved,
    "control_ack": lambda event: f"{event.get('command', '')}: {event.get('result', '')}",
    "oom": lambda event: f"out of memory at step {event.get('step', 0)}: {event.get('message', '')}",
    "retry": lambda event: f"goes on: {event.get('text', '')}",
    "error": _tell_error,
    "run_finished": _tell_finished,
}


class BarNarrator(Narrator):
    """The same, and under it one line that is drawn over, with a bar."""

    def __init__(self, run_dir: RunDir) -> None:
        super().__init__(run_dir)
        self._drawn = ""
        self._drawn_at = 0.0

    def line(self, text: str) -> None:
        """One line that stays, above the bar."""
        sys.stderr.write("\r\x1b[K")
        super().line(text)
        self._draw()

    def moving(self, text: str, share: float | None) -> None:
        """Draw the bar anew, at most ten times a second."""
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
    """`text` with a bar before it, no wider than `columns`; the bar goes first where it is narrow."""
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


class JsonNarrator(Narrator):
    """The events themselves on stdout, one a line."""

    def __call__(self, event: Event) -> None:
        """Print one event."""
        self.collect(event)
        output.result(event.as_json())


def narrator(run_dir: RunDir, *, json: bool = False, plain: bool = False) -> Narrator:
    """The one that fits: events with `json`, a bar where stderr is a terminal, else lines."""
    if json:
        return JsonNarrator(run_dir)
    return BarNarrator(run_dir) if not plain and output.is_terminal(sys.stderr) else Narrator(run_dir)


def last_saved(teller: Narrator) -> Path | None:
    """The newest LoRA of the run that is still there."""
    found = (own_file(teller.run_dir.path, path) for path in reversed(teller.saved))
    return next((path for path in found if path is not None), None)
