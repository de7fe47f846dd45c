"""A run in the foreground: the trainer is another process, this one starts it, follows it and passes wishes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from types import FrameType

from engine.errors import StorageError
from engine.exit_codes import ExitCode
from engine.runs import Ending, Event, EventFollower, RunDir, is_locked, prepare_resume, request
from engine.runs.follow import follow, skip_history
from engine.text import attach_line, printable, resume_line
from tui import output
from tui.ask_remedy import ask_for_remedy
from tui.begin import start
from tui.narrators import Narrator

REPEAT_SECONDS = 0.5


class Stopper:
    """What Ctrl-C and SIGTERM do while a run is followed.

    First: the trainer is asked to finish its step, save and end, and is followed to its end. Second: it is ended at
    once. Third: this process leaves it alone and ends.
    """

    ASKED = "Asked to finish the step, save and end. Once more ends it at once."
    ENDING = "Ending at once; the last saved state stays."

    def __init__(self, run_dir: RunDir, process: subprocess.Popen[bytes] | None) -> None:
        self.presses = 0
        self.signal = signal.SIGINT
        self._run_dir = run_dir
        self._process = process
        self._sent = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stopper:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and "&" in scripts mean it
                self._before[number] = signal.signal(number, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _press(self, number: int, _: FrameType | None) -> None:
        self.presses += 1
        self.signal = signal.Signals(number)
        if self.presses == 1:
            self._ask()
        elif self.presses == 2:
            output.narrate(f"\n{self.ENDING}")
            self.tick()
        else:
            raise KeyboardInterrupt

    def _ask(self) -> None:
        output.narrate(f"\n{self.ASKED}")
        try:
            request(self._run_dir, "stop")
        except StorageError:
            self._send()  # a full disk takes no wish; a signal is one as well

    def tick(self) -> None:
        """After the second press: send the signal until the trainer is gone; the first it gets may count as a wish."""
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


def train(run_dir: RunDir, teller: Narrator, *, detach: bool = False) -> int:
    """Launch a prepared run and follow it to its end, or with `detach` until the trainer has started.

    Where memory runs out and the configuration says `ask`, the remedies are offered on the terminal.

    Returns the exit code for this process.
    """
    code = _train(run_dir, teller, detach=detach)
    while code == ExitCode.OUT_OF_MEMORY and (changes := ask_for_remedy(run_dir)) is not None:
        prepare_resume(run_dir, changes=changes, say=teller.line)
        code = _train(run_dir, teller)
    return code


def _train(run_dir: RunDir, teller: Narrator, *, detach: bool = False) -> int:
    follower, history = skip_history(run_dir)
    for event in history:
        teller.collect(event)
    process = start(run_dir, teller.line)
    if detach:
        return _until_started(run_dir, teller, process, follower)
    teller.line(f"The training is process {process.pid} in {run_dir.path}; it goes on if this terminal closes.")
    with Stopper(run_dir, process) as stopper:
        try:
            ending = follow(run_dir, teller, process=process, follower=follower, tick=stopper.tick)
        except KeyboardInterrupt:
            teller.close()
            output.narrate(f"Left alone: process {process.pid} in {run_dir.path}")
            return stopper.exit_code or ExitCode.INTERRUPTED
        except OSError:
            output.narrate(f"The training continues. Watch it with:\n  {attach_line(run_dir.path)}")
            raise
    teller.close()
    return conclude(run_dir, ending, stopper)


def _until_started(run_dir: RunDir, teller: Narrator, process: subprocess.Popen[bytes], follower: EventFollower) -> int:
    def started(event: Event) -> bool:
        return event.type == "run_started"

    ending = follow(run_dir, teller, process=process, follower=follower, until=started)
    teller.close()
    if not ending.state.live:
        return conclude(run_dir, ending)
    output.narrate(f"Started as process {process.pid}. Watch it with:\n  {attach_line(run_dir.path)}")
    return ExitCode.DONE


def conclude(run_dir: RunDir, ending: Ending, stopper: Stopper | None = None) -> int:
    """Explain an end that explains nothing itself; the exit code for this process."""
    for line in ending.explanation:
        output.narrate(printable(line))
    wished = stopper.exit_code if stopper else None
    if ending.exit_code in (ExitCode.STOPPED, ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        output.narrate(f"Go on with:\n  {resume_line(run_dir.path)}")
    if wished is not None and ending.exit_code not in (ExitCode.DONE, ExitCode.STOPPED):
        return wished
    return ending.exit_code
