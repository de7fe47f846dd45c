"""Following a run to its end: the one code path of a start in the foreground, of `attach`, and of the dashboard."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.exit_codes import ExitCode
from engine.runs.events import Event, EventFollower
from engine.runs.launch import log_tail
from engine.runs.layout import RunDir
from engine.runs.state import RunState, read_exit, true_state
from engine.text import printable, resume_line

Sink = Callable[[Event], None]
SILENT_SECONDS = 60.0
"""After so long without a sign, a run on another machine is no longer waited for."""


@dataclass(frozen=True)
class Ending:
    """How following a run ended."""

    state: RunState
    exit_code: int
    """What the follower's own process should exit with."""
    explanation: tuple[str, ...] = ()
    """For a run that ended without a word: what is known, one line each."""


def follow(
    run_dir: RunDir,
    sink: Sink,
    *,
    process: subprocess.Popen[bytes] | None = None,
    follower: EventFollower | None = None,
    until: Callable[[Event], bool] | None = None,
    tick: Callable[[], None] = lambda: None,
    interval: float = 0.2,
) -> Ending:
    """Give every event to `sink` until the run ends.

    Args:
        run_dir: a run that was launched.
        sink: called for each event, in order.
        process: the trainer, where this process started it: its end is seen at once, and its exit code known.
        follower: to go on from its place in the log; by default from the first event.
        until: end early, with the run going on, after the first event for which it is true.
        tick: called at every look.
        interval: seconds between two looks.
    """
    follower = follower or EventFollower(run_dir.events_path)
    while True:
        dead = process is not None and process.poll() is not None
        state = true_state(run_dir)
        for event in _pending(follower):
            sink(event)
            if until is not None and until(event):
                return Ending(true_state(run_dir), ExitCode.DONE)
        # The state is older than the events: what the trainer wrote before it ended has been read by now.
        if dead or not (state.live or (state.state == "unknown" and _fresh(state))):
            return _ending(run_dir, true_state(run_dir), process)
        tick()
        time.sleep(interval)


def _pending(follower: EventFollower) -> list[Event]:
    events: list[Event] = []
    while found := follower.poll():
        events += found
    return events


def skip_history(run_dir: RunDir) -> tuple[EventFollower, list[Event]]:
    """A follower that stands at the end of the log as it is now, and the events before."""
    follower = EventFollower(run_dir.events_path)
    return follower, _pending(follower)


def _fresh(state: RunState) -> bool:
    return state.updated is not None and time.time() - state.updated < SILENT_SECONDS


def _ending(run_dir: RunDir, state: RunState, process: subprocess.Popen[bytes] | None) -> Ending:
    known = read_exit(run_dir)
    if known is not None:
        return Ending(state, known["exit_code"])
    code = process.returncode if process is not None else None
    told = code if code in set(ExitCode) - {ExitCode.DONE} else None
    return Ending(state, told or ExitCode.TRAINING_FAILED, explain(run_dir, state, code))


def explain(
    run_dir: RunDir, state: RunState, returncode: int | None = None, *, last: Event | None = None
) -> tuple[str, ...]:
    """Why a run ended without a word, as far as anything tells: lines for a person, a command last.

    `last` is the log's last event, for a caller that knows it; reading a long log takes seconds.
    """
    if state.state == "unknown":
        why = f"This run is of another machine: {state.detail}."
        return (why, "Look there, or go on with it here:", f"  {resume_line(run_dir.path)}")
    if state.state == "damaged":
        return (state.detail,)
    lines = [f"The run was lost at step {state.step}: {state.detail}."]
    if returncode is not None:
        how = f"by signal {-returncode}" if returncode < 0 else f"with exit code {returncode}"
        lines.append(f"Its process ended {how}.")
    if last is None:
        last = next(reversed(_pending(EventFollower(run_dir.events_path))), None)
    if last is not None:
        lines.append(f"Last event: {last.as_json()}")
    tail = log_tail(run_dir)
    lines += [f"End of {printable(run_dir.log_path)}:", *(f"  {line}" for line in tail)] if tail else []
    if returncode in (None, -9) and not any("Error" in line for line in tail):
        lines.append("If nobody ended it, the system may have, for want of memory: look with dmesg.")
    return (*lines, "Go on from the last saved state with:", f"  {resume_line(run_dir.path)}")
