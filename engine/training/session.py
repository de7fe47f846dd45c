"""What a run tells and what it is told: events, state, wishes and signals. Imports no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from engine.errors import StorageError
from engine.exit_codes import ExitCode
from engine.runs.control import Command, ControlBox
from engine.runs.events import EventLog
from engine.runs.layout import RunDir
from engine.runs.state import StateWriter, write_exit

if TYPE_CHECKING:
    from engine.training.measured import PhasePeaks

HEARTBEAT_SECONDS = 5.0
PROGRESS_SECONDS = 0.5


class Stopped(Exception):
    """The person asked to stop before the first step."""


class Signals:
    """First SIGINT or SIGTERM: finish the step, save, exit. Second: exit now. SIGHUP is ignored.

    Installed before anything else, so that there is no moment in which a signal kills without a word.
    """

    def __init__(self) -> None:
        self.first = ""
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
            return
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
        try:
            self.at_second(code)
        finally:
            os._exit(code)


class Session:
    """One life of the trainer's main process in a run directory. A context manager: the heartbeat lives inside."""

    def __init__(self, run: RunDir, signals: Signals | None = None) -> None:
        self.run = run
        self.signals = signals or Signals()
        self.signals.at_second = self._end_at_once
        self.events = EventLog(run.events_path, run.reserve_path)
        self.state = StateWriter(run)
        self.control = ControlBox(run, self.events)
        self.step = 0
        self.others: list[subprocess.Popen[bytes]] = []
        """The processes of the other ranks."""
        self._stop_reason = ""
        self._warned: set[str] = set()
        self._over = threading.Event()
        self._ending = threading.RLock()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Session:
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._heart.join()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            self.state.update(force=True)

    def say(self, text: str) -> None:
        """Tell a decision and its reason."""
        self.events.emit("note", text=text)
        _print(text)

    def warn(self, code: str, text: str, *, once: bool = False, **facts: Any) -> None:
        """Tell something that the person may want to change; `facts` go into the event."""
        if once and code in self._warned:
            return
        self._warned.add(code)
        self.events.emit("warning", code=code, text=text, **facts)
        _print(f"warning: {text}")

    @contextmanager
    def phase(self, name: str, **facts: Any) -> Iterator[None]:
        """A stretch of work: loading, caching, training, sampling, saving. `facts` are told at its start.

        An error that leaves it carries its name: see `phase_of`.
        """
        before = self.state_phase
        self._enter_phase(name)
        self.events.emit("phase", name=name, state="start", step=self.step, **facts)
        try:
            yield
        except Exception as error:
            if not hasattr(error, "phase"):
                error.phase = name  # type: ignore[attr-defined]
            raise
        finally:
            self.events.emit("phase", name=name, state="end", step=self.step)
            self._enter_phase(before)

    state_phase = ""

    peaks: PhasePeaks | None = None
    """Measures each phase; on a GPU only."""

    def _enter_phase(self, name: str) -> None:
        if self.peaks is not None:
            self.peaks.turn(self.state_phase, name)
        self.state_phase = name
        self.state.update(phase=name)

    def progress(self, phase: str, unit: str) -> Callable[[int, int], None]:
        """A callback (done, total) that tells the progress of a phase, at most twice a second and at its end."""
        last = 0.0

        def tell(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if done < total and now - last < PROGRESS_SECONDS:
                return
            last = now
            self.events.emit("progress", phase=phase, done=done, total=total, unit=unit)

        return tell

    def stop_here(self) -> None:
        """A place before the first step where a stop is obeyed.

        Raises:
            Stopped: one was asked for.
        """
        if self.should_stop():
            raise Stopped

    def should_stop(self) -> bool:
        """Whether to end at the next safe moment: a signal, or a wish of the control box."""
        if not self.stop_reason:
            for command in self.control.take():
                if command.name == "stop":
                    self.ask_to_stop("asked to stop", command)
                else:
                    self.control.acknowledge(command, "refused: not possible in this phase")
        return bool(self.stop_reason)

    @property
    def stop_reason(self) -> str:
        """Why the run shall end at the next safe moment; empty while it shall not."""
        return self._stop_reason or self.signals.first

    @stop_reason.setter
    def stop_reason(self, reason: str) -> None:
        self._stop_reason = reason

    def ask_to_stop(self, reason: str, command: Command | None = None) -> None:
        """Note why the run shall end."""
        self.stop_reason = self.stop_reason or reason
        self.state.update(state="stopping")
        if command is not None:
            self.control.acknowledge(command, "stops after this step")

    def _end_at_once(self, code: int) -> None:
        # No write is awaited: an event or a state may be half written, which every reader tolerates.
        write_exit(
            self.run,
            "failed",
            code,
            self.step,
            title="Ended at once",
            message="Ended at once by a second signal.",
            hint="`lorasmith resume` goes on from the last saved state.",
        )

    def remove_old(self, path: Path) -> bool:
        """Remove a file that a newer one replaces; where it cannot be removed, that is only reported."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self.warn("not_removed", f"{path.name} could not be removed: {error.strerror or error}.")
            return False
        return True

    def end_others(self) -> None:
        """End the other ranks of this run, if there are any."""
        for other in self.others:
            other.kill()
            other.wait()

    def claim_end(self) -> None:
        """Only one thread tells how the run ends; another one waits here, and the process ends meanwhile."""
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()

    def finish(self, state: str, code: ExitCode, **details: str) -> ExitCode:
        """Tell how the run ended, in exit.json first, then in events, state.json and the log."""
        self.claim_end()
        with suppress(StorageError):  # the events and the exit code tell it too
            write_exit(self.run, state, code, self.step, **details)
        if details:
            self.events.emit("error", **details)
            _print(f"{details['title']}: {details['message']} {details['hint']}".strip())
        self.state.update(force=True, state=state, phase="")
        self.events.emit("run_finished", state=state, exit_code=int(code), step=self.step)
        self.events.sync()
        return code


def phase_of(error: BaseException) -> str:
    """The innermost phase that `error` left; "start" where there was none yet."""
    return str(getattr(error, "phase", "start"))


def _print(text: str) -> None:
    """A line in train.log; a full disk must not end the run."""
    with suppress(OSError):  # outside `steady_output` too
        print(text, flush=True)


class _Steady:
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
def steady_output() -> Iterator[None]:
    """Inside, a train.log that cannot be written, wherever it is written from, does not end the run."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Steady(before[0]), _Steady(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
