"""A run in the foreground: this process starts the trainer, follows it, and passes commands on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from engine.errors import StorageError
from engine.exit_codes import ExitCode
from engine.runs import Ending, Event, EventFollower, RunDir, is_locked, prepare_resume, request
from engine.runs.begin import start
from engine.runs.events import RunStartedEvent
from engine.runs.follow import follow, skip_history
from engine.runs.loggers import wait_for_loggers
from engine.text import attach_line, printable, resume_line
from tui.shell import notify, output
from tui.shell.ask_remedy import ask_for_remedy
from tui.shell.event_printer import EventPrinter

REPEAT_SECONDS = 0.5


class Stopper:
    """What Ctrl-C and SIGTERM do while a run is followed.

    First: the trainer is asked to finish its step, save and end, and is followed to its end. Second: it is stopped at
    once. Third: this process ends without stopping it.
    """

    REQUESTED = "Asked to finish the step, save and end. Once more stops it at once."
    ENDING = "Stopping at once; the last saved state stays."

    def __init__(self, run_dir: RunDir, process: subprocess.Popen[bytes] | None) -> None:
        self.presses = 0
        self.signal = signal.SIGINT
        self._run_dir = run_dir
        self._process = process
        self._sent = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stopper:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as set by nohup and "&" in scripts
                self._before[number] = signal.signal(number, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _press(self, number: int, _: FrameType | None) -> None:
        self.presses += 1
        self.signal = signal.Signals(number)
        if self.presses == 1:
            self._request_stop()
        elif self.presses == 2:
            output.message(f"\n{self.ENDING}")
            self.tick()
        else:
            raise KeyboardInterrupt

    def _request_stop(self) -> None:
        output.message(f"\n{self.REQUESTED}")
        try:
            request(self._run_dir, "stop")
        except StorageError:
            self._send()  # a full disk takes no command; a signal requests a stop as well

    def tick(self) -> None:
        """After the second press: send the signal until the trainer is gone; it may take the first one as a request."""
        if self.presses >= 2 and time.monotonic() - self._sent >= REPEAT_SECONDS:
            self._sent = time.monotonic()
            self._send()

    def _send(self) -> None:
        holder = is_locked(self._run_dir.lock_path)
        with suppress(ProcessLookupError, PermissionError):
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(self.signal)
            elif holder is not None and holder.pid > 0:
                os.kill(holder.pid, self.signal)

    @property
    def exit_code(self) -> ExitCode | None:
        """The code that a second press asks for."""
        if self.presses < 2:
            return None
        return ExitCode.INTERRUPTED if self.signal == signal.SIGINT else ExitCode.TERMINATED


def train(run_dir: RunDir, printer: EventPrinter, *, detach: bool = False, on_end: Sequence[str] = ()) -> int:
    """Launch a prepared run and follow it to its end, or with `detach` until the trainer has started.

    Where memory runs out and `memory.on_oom` is "ask", the remedies are offered on the terminal.

    Args:
        on_end: the words of a command that the trainer runs when it has ended.

    Returns the exit code for this process.
    """
    code = _train(run_dir, printer, on_end, detach=detach)
    while code == ExitCode.OUT_OF_MEMORY and (changes := ask_for_remedy(run_dir)) is not None:
        prepare_resume(run_dir, changes=changes, log=printer.line)
        code = _train(run_dir, printer, on_end)
    if not detach:
        notify.on_terminal(run_dir, code)
    return code


def _train(run_dir: RunDir, printer: EventPrinter, on_end: Sequence[str], *, detach: bool = False) -> int:
    follower, history = skip_history(run_dir)
    for event in history:
        printer.collect(event)
    process = start(run_dir, printer.line, on_end=on_end)
    if detach:
        return _until_started(run_dir, printer, process, follower)
    printer.line(f"The training is process {process.pid} in {run_dir.path}; it continues if this terminal closes.")
    with Stopper(run_dir, process) as stopper:
        try:
            ending = follow(run_dir, printer, process=process, follower=follower, tick=stopper.tick)
        except KeyboardInterrupt:
            printer.close()
            output.message(f"Not stopped: process {process.pid} in {run_dir.path}")
            return stopper.exit_code or ExitCode.INTERRUPTED
        except OSError:
            output.message(f"The training continues. Watch it with:\n  {attach_line(run_dir.path)}")
            raise
    printer.close()
    with suppress(KeyboardInterrupt):
        wait_for_loggers(run_dir, _report_wait)
    return conclude(run_dir, ending, stopper)


def _report_wait(names: list[str]) -> None:
    output.message(f"Waiting for {' and '.join(names)} to write the rest; Ctrl-C ends the wait.")


def _until_started(
    run_dir: RunDir, printer: EventPrinter, process: subprocess.Popen[bytes], follower: EventFollower
) -> int:
    def started(event: Event) -> bool:
        return isinstance(event, RunStartedEvent)

    ending = follow(run_dir, printer, process=process, follower=follower, until=started)
    printer.close()
    if not ending.state.live:
        return conclude(run_dir, ending)
    output.message(f"Started as process {process.pid}. Watch it with:\n  {attach_line(run_dir.path)}")
    return ExitCode.DONE


def conclude(run_dir: RunDir, ending: Ending, stopper: Stopper | None = None) -> int:
    """Print why the run ended where its events do not, and how to resume it; the exit code for this process."""
    for line in ending.explanation:
        output.message(printable(line))
    requested = stopper.exit_code if stopper else None
    if ending.exit_code in (ExitCode.STOPPED, ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        output.message(f"Continue with:\n  {resume_line(run_dir.path)}")
    if requested is not None and ending.exit_code not in (ExitCode.DONE, ExitCode.STOPPED):
        return requested
    return ending.exit_code
