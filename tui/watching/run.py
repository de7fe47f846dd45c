"""Following a run for a screen: what is new since the last look, all in one piece."""

from __future__ import annotations

import os
from dataclasses import dataclass

from engine.runs import Event, EventFollower, RunDir, RunState, true_state
from engine.runs.follow import explain
from engine.runs.launch import log_tail
from tui.watching.machine import Machine, MachineWatch

LIVE_SECONDS, IDLE_SECONDS = 1.0, 2.0
PIECE = 4000
"""Events of a long history that are given at once."""
LOG_LINES = 40


@dataclass(frozen=True)
class Look:
    """What one look at a run found."""

    state: RunState
    events: list[Event]
    complete: bool
    """False while more of the history is to come at once."""
    gone: bool
    """The directory, or what makes it a run, is not there any more."""
    writable: bool
    """Wishes and settings can be written into it."""
    partial: bool
    """The last line of the event log has no end."""
    bad_lines: int
    """Lines of the event log that are no events."""
    log: list[str]
    """The end of train.log."""
    explanation: tuple[str, ...]
    """Of a run that ended without a word, or of another machine."""
    machine: Machine | None


class RunWatch:
    """Looks at one run. Reads files, so it belongs into a thread."""

    def __init__(self, run_dir: RunDir, machine: MachineWatch | None = None) -> None:
        self.run_dir = run_dir
        self._machine = machine
        self._follower = EventFollower(run_dir.events_path)
        self._last: Event | None = None
        self._before: object = None
        self._log_key: object = None
        self._log: list[str] = []
        self._explained: tuple[object, tuple[str, ...]] = (None, ())

    def look(self) -> Look | None:
        """What is new; None when nothing is."""
        state = true_state(self.run_dir)  # older than the events: when it says "ended", they are all there
        events, complete = self._events()
        self._last = events[-1] if events else self._last
        gone = not self.run_dir.is_run
        folder = self.run_dir.control if self.run_dir.control.is_dir() else self.run_dir.private
        found = Look(
            state=state,
            events=events,
            complete=complete,
            gone=gone,
            writable=os.access(folder, os.W_OK | os.X_OK),
            partial=self._follower.partial,
            bad_lines=self._follower.bad_lines,
            log=self._log_lines(),
            explanation=self._explain(state) if complete and not gone else (),
            machine=self._machine.latest if self._machine else None,
        )
        known = (state.state, state.phase, state.max_train_steps, state.exit_code, state.detail, gone, found.writable,
                 found.partial, found.bad_lines, self._log_key, complete, found.machine)  # fmt: skip
        if not events and known == self._before:
            return None
        self._before = known
        return found

    def _events(self) -> tuple[list[Event], bool]:
        events: list[Event] = []
        while len(events) < PIECE:
            found = self._follower.poll()
            if not found:
                return events, True
            events += found
        return events, False

    def _log_lines(self) -> list[str]:
        try:
            status = self.run_dir.log_path.stat()
            key: object = (status.st_size, status.st_mtime_ns)
        except OSError:
            key = None
        if key != self._log_key:
            self._log_key, self._log = key, log_tail(self.run_dir, LOG_LINES)
        return self._log

    def _explain(self, state: RunState) -> tuple[str, ...]:
        if state.state not in ("lost", "unknown"):
            return ()
        if self._explained[0] != state:
            self._explained = (state, explain(self.run_dir, state, last=self._last))
        return self._explained[1]
