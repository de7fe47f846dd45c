"""The trainer's connection to the outside: events, state, commands and signals. Imports no torch."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from engine.exit_codes import ExitCode
from engine.runs.control import Command, ControlBox
from engine.runs.ending import print_line, report_end
from engine.runs.events import (
    EventLog,
    NoteEvent,
    PhaseEvent,
    ProgressEvent,
    WarningEvent,
)
from engine.runs.layout import RunDir
from engine.runs.state import StateWriter, write_exit

if TYPE_CHECKING:
    import torch

    from engine.training.run_copy import RunCopies
    from engine.types import Recognition

HEARTBEAT_SECONDS = 5.0
PROGRESS_SECONDS = 0.5


class Stopped(Exception):
    """A stop was requested before the first step."""


class Signals:
    """First SIGINT or SIGTERM: finish the step, save, exit. Second: exit now. SIGHUP is ignored.

    Installed before anything else, so that no signal kills the process without a report.
    """

    def __init__(self) -> None:
        self.first = ""
        self.at_first: Callable[[str], None] = lambda _: None
        self.at_second: Callable[[int], None] = lambda _: None

    def install(self) -> None:
        """Take over the process's signals."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if not self.first:
            self.first = signal.Signals(number).name
            self.at_first(self.first)
            return
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
        try:
            self.at_second(code)
        finally:
            os._exit(code)


class PhasePeaks:
    """Peak memory of each phase. A phase inside another one is counted separately.

    Args:
        peak: the most bytes allocated since the last `reset`.
    """

    def __init__(self, peak: Callable[[], int], reset: Callable[[], None]) -> None:
        self._peak, self._reset = peak, reset
        self.bytes: dict[str, int] = {}

    @classmethod
    def of(cls, device: torch.device) -> PhasePeaks:
        """The peaks of torch's allocator on a GPU."""
        from torch import cuda

        return cls(lambda: cuda.max_memory_allocated(device), lambda: cuda.reset_peak_memory_stats(device))

    def switch(self, before: str, after: str) -> None:
        """Leave one phase and enter another; "" is none."""
        if before:
            self.bytes[before] = max(self.bytes.get(before, 0), self._peak())
        self._reset()

    def highest(self) -> int:
        """The highest peak of all phases so far."""
        return max([self._peak(), *self.bytes.values()])


class Session:
    """One process of the trainer in a run directory. A context manager: the heartbeat runs inside it.

    Args:
        leader: the process that holds the lock and started this one; None: this one holds it.
    """

    is_main = True
    """Rank 0: the only one that writes files, events and states."""
    state_phase = ""
    copies: RunCopies | None = None
    """Of the run, on machines that do not see its directory."""
    peaks: PhasePeaks | None = None
    """On a GPU only."""
    recognition: Recognition | None = None
    """Of the checkpoint, once it is read: after an out-of-memory it must not be read a second time."""

    def __init__(self, run: RunDir, signals: Signals | None = None, leader: int | None = None) -> None:
        self.run = run
        self.signals = signals or Signals()
        self.signals.at_second = lambda code: end_at_once(run, code, self.step)
        self.events = EventLog(run.events_path, run.reserve_path)
        self.pid = os.getpid() if leader is None else leader
        """The process that holds the lock."""
        self.state = StateWriter(run, self.pid)
        self.control = ControlBox(run, self.events)
        self.step = 0
        self._stop_reason = ""
        self._warned: set[str] = set()
        self._ended = threading.Event()
        self._ending = threading.RLock()
        self._heartbeat_thread = threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True)

    def __enter__(self) -> Session:
        self._heartbeat_thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._heartbeat_thread.join()

    @property
    def has_ended(self) -> bool:
        """Whether the process is no longer the run's trainer."""
        return self._ended.is_set()

    def _heartbeat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            self.state.update(force=True)

    def log(self, text: str) -> None:
        """Report a decision and its reason."""
        self.events.emit(NoteEvent(text=text))
        print_line(text)

    def warn(self, code: str, text: str, *, once: bool = False, **facts: Any) -> None:
        """Report something that the user may want to change; `facts` go into the event."""
        if once and code in self._warned:
            return
        self._warned.add(code)
        self.events.emit(WarningEvent(code=code, text=text, **facts))
        print_line(f"warning: {text}")

    @contextmanager
    def phase(self, name: str, **facts: Any) -> Iterator[None]:
        """Mark a phase of the run: loading, caching, training, sampling, saving. `facts` go into its start event.

        An error raised inside carries the phase's name: see `phase_of`.
        """
        before = self.state_phase
        self._enter_phase(name)
        self.events.emit(PhaseEvent(name=name, state="start", step=self.step, **facts))
        try:
            yield
        except Exception as error:
            if not hasattr(error, "phase"):
                error.phase = name  # type: ignore[attr-defined]
            raise
        finally:
            self.events.emit(PhaseEvent(name=name, state="end", step=self.step))
            self._enter_phase(before)

    def _enter_phase(self, name: str) -> None:
        if self.peaks is not None:
            self.peaks.switch(self.state_phase, name)
        self.state_phase = name
        self.state.update(phase=name)

    def progress(self, phase: str, unit: str, *, after: float = 0.0) -> Callable[[int, int], None]:
        """A callback (done, total) that reports the progress of a phase, at most twice a second and at its end.

        Args:
            after: seconds from now in which nothing is reported: what is quick needs no report.
        """
        last, begin = 0.0, time.monotonic() + after

        def report(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now < begin or (done < total and now - last < PROGRESS_SECONDS):
                return
            last = now
            self.events.emit(ProgressEvent(phase=phase, done=done, total=total, unit=unit))

        return report

    def raise_if_stopped(self) -> None:
        """Raise `Stopped` if a stop was requested: for the time before the first step."""
        if self.should_stop():
            raise Stopped

    def should_stop(self) -> bool:
        """Whether a signal or a command in the control box asks to end at the next safe moment."""
        if not self.stop_reason:
            for command in self.control.take():
                if command.name == "stop":
                    self.request_stop(stop_reason(command), command)
                else:
                    self.control.acknowledge(command, "refused: not possible in this phase")
        return bool(self.stop_reason)

    @property
    def stop_reason(self) -> str:
        """Why the run has to end at the next safe moment; empty if it does not."""
        return self._stop_reason or self.signals.first

    @stop_reason.setter
    def stop_reason(self, reason: str) -> None:
        self._stop_reason = reason

    def request_stop(self, reason: str, command: Command | None = None) -> None:
        """Record why the run has to end."""
        self.stop_reason = self.stop_reason or reason
        self.state.update(state="stopping")
        if command is not None:
            self.control.acknowledge(command, "stops after this step")

    def remove_file(self, path: Path) -> bool:
        """Remove an outdated file; a failure is only reported."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self.warn("not_removed", f"{path.name} could not be removed: {error.strerror or error}.")
            return False
        return True

    def claim_end(self) -> None:
        """Let one thread only report how the run ends; any other thread waits here until the process ends."""
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()

    def finish(self, state: str, exit_code: ExitCode, **details: str) -> ExitCode:
        """Report how the run ended: first in exit.json, then in events, state.json and the log."""
        self.claim_end()
        return report_end(self.run, self.events, self.state, state, exit_code, self.step, **details)


def end_at_once(run: RunDir, exit_code: int, step: int) -> None:
    """Record the end by a second signal, without waiting for writes in progress: readers tolerate a half-written event
    or state."""
    write_exit(
        run,
        "failed",
        exit_code,
        step,
        code="second-signal",
        title="Ended at once",
        message="Ended at once by a second signal.",
        hint="`lorasmith resume` continues from the last saved state.",
    )


def stop_reason(command: Command) -> str:
    """Why a "stop" was sent: by a signal to the process that started the ranks, or by a person."""
    reason = command.value.get("reason") if isinstance(command.value, dict) else None
    return str(reason) if reason in signal.Signals.__members__ else "asked to stop"


def phase_of(error: BaseException) -> str:
    """The innermost phase in which `error` was raised; "start" before the first one."""
    return str(getattr(error, "phase", "start"))


class _UnfailingStream:
    """A text stream whose writes never fail: libraries write progress bars and warnings into train.log too."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


@contextmanager
def unfailing_output() -> Iterator[None]:
    """Within it, failing writes to train.log, from whichever library, do not end the run."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _UnfailingStream(before[0]), _UnfailingStream(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
