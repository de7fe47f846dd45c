"""Following a run to its end: used by a start in the foreground, by `attach`, and by the dashboard."""

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
"""After this time without an update, a run on another machine is no longer followed."""


@dataclass(frozen=True)
class Ending:
    """How following a run ended."""

    state: RunState
    exit_code: int
    """Exit code for the follower's own process."""
    explanation: tuple[str, ...] = ()
    """For a run that was lost: what is known, one line each."""


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
    """Pass every event to `sink` until the run ends.

    Args:
        run_dir: a run that was launched.
        sink: called for each event, in order.
        process: the trainer, where this process started it: then its end and exit code are known at once.
        follower: continue from its position in the log; by default from the first event.
        until: return early, while the run continues, after the first event for which it is true.
        tick: called at every poll.
        interval: seconds between two polls.
    """
    follower = follower or EventFollower(run_dir.events_path)
    while True:
        dead = process is not None and process.poll() is not None
        state = true_state(run_dir)
        for event in _pending(follower):
            sink(event)
            if until is not None and until(event):
                return Ending(true_state(run_dir), ExitCode.DONE)
        # The state was read before the events, so all events of a trainer that has ended are read by now.
        if dead or not (state.live or (state.state == "unknown" and _fresh(state))):
            return _ending(run_dir, true_state(run_dir), process)
        tick()
        time.sleep(interval)


def _pending(follower: EventFollower) -> list[Event]:
    events: list[Event] = []
    while new := follower.poll():
        events += new
    return events


def skip_history(run_dir: RunDir) -> tuple[EventFollower, list[Event]]:
    """A follower at the present end of the log, and the events before it."""
    follower = EventFollower(run_dir.events_path)
    return follower, _pending(follower)


def _fresh(state: RunState) -> bool:
    return state.updated is not None and time.time() - state.updated < SILENT_SECONDS


def _ending(run_dir: RunDir, state: RunState, process: subprocess.Popen[bytes] | None) -> Ending:
    ending = read_exit(run_dir)
    if ending is not None:
        return Ending(state, ending["exit_code"])
    code = process.returncode if process is not None else None
    own = code if code in set(ExitCode) - {ExitCode.DONE} else None
    return Ending(state, own or ExitCode.TRAINING_FAILED, explain(run_dir, state, code))


def explain(
    run_dir: RunDir, state: RunState, returncode: int | None = None, *, last: Event | None = None
) -> tuple[str, ...]:
    """Why a run was lost, as far as known: lines for a person, the last one a command.

    `last` is the log's last event, where the caller has it; reading a long log takes seconds.
    """
    if state.state == "unknown":
        why = f"This run was started on another machine: {state.detail}."
        return (why, "Look there, or continue it here:", f"  {resume_line(run_dir.path)}")
    if state.state == "damaged":
        return (state.detail,)
    lines = [f"The run stopped unexpectedly at step {state.step}: {state.detail}."]
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
        lines.append("If nobody ended it, the system may have, for lack of memory: check dmesg.")
    return (*lines, "Continue from the last saved state with:", f"  {resume_line(run_dir.path)}")
