"""Following a run for a screen: everything that is new since the last look."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass

from engine.runs import Event, EventFollower, RunDir, RunState, true_state
from engine.runs.events import ErrorEvent, NoteEvent, WarningEvent
from engine.runs.follow import explain
from engine.runs.launch import log_tail
from engine.runs.remarks import read_remarks
from tui.watching.machine import Machine, MachineWatch

LIVE_SECONDS, IDLE_SECONDS = 1.0, 2.0
PIECE = 4000
"""Events of a long history that are returned at once."""
LOG_LINES = 40
READ_LINES = 400
"""Of the log: most of them repeat events, and are left out."""
KEPT_TEXTS = 500


@dataclass(frozen=True)
class Look:
    """A run at one moment."""

    state: RunState
    events: list[Event]
    complete: bool
    """False while more of the history follows at once."""
    gone: bool
    """The directory, or what makes it a run, does not exist any more."""
    writable: bool
    """Commands and settings can be written into it."""
    partial: bool
    """The last line of the event log has no end."""
    bad_lines: int
    """Lines of the event log that are no events."""
    log: list[str]
    """The end of train.log, without the lines that events have."""
    printed: bool
    """Whether train.log has any line."""
    explanation: tuple[str, ...]
    """Of a run that was lost, or is on another machine."""
    machine: Machine | None
    title: str
    """The name that lists show; empty: the run's own."""


def printed_lines(event: Event) -> list[str]:
    """What the trainer prints when it reports an event, as lines of its log."""
    match event:
        case NoteEvent():
            text = event.text
        case WarningEvent():
            text = f"warning: {event.text}"
        case ErrorEvent():
            text = f"{event.title}: {event.message} {event.hint}"
        case _:
            return []
    return [line.rstrip() for line in text.strip().split("\n")]


class RunWatch:
    """Reads one run. Reads files: use it in a thread."""

    def __init__(self, run_dir: RunDir, machine: MachineWatch | None = None) -> None:
        self.run_dir = run_dir
        self._machine = machine
        self._title: str | None = None
        self._follower = EventFollower(run_dir.events_path)
        self._last: Event | None = None
        self._before: object = None
        self._log_key: object = None
        self._log: list[str] = []
        self._reported: deque[frozenset[str]] = deque(maxlen=KEPT_TEXTS)
        """The lines that the newest events have put into the log."""
        self._explained: tuple[object, tuple[str, ...]] = (None, ())

    def look(self) -> Look | None:
        """Read what is new; None where nothing is."""
        if self._title is None:
            self._title = read_remarks(self.run_dir).title
        state = true_state(self.run_dir)  # older than the events: when it says "ended", they are all there
        events, complete = self._events()
        self._reported.extend(frozenset(lines) for event in events if (lines := printed_lines(event)))
        self._last = events[-1] if events else self._last
        gone = not self.run_dir.is_run
        folder = self.run_dir.control if self.run_dir.control.is_dir() else self.run_dir.private
        look = Look(
            state=state,
            events=events,
            complete=complete,
            gone=gone,
            writable=os.access(folder, os.W_OK | os.X_OK),
            partial=self._follower.partial,
            bad_lines=self._follower.bad_lines,
            log=self._log_lines(),
            printed=bool(self._log),
            explanation=self._explain(state) if complete and not gone else (),
            machine=self._machine.latest if self._machine else None,
            title=self._title,
        )
        key = (state.state, state.phase, state.max_train_steps, state.exit_code, state.detail, gone, look.writable,
                 look.partial, look.bad_lines, self._log_key, complete, look.machine)  # fmt: skip
        if not events and key == self._before:
            return None
        self._before = key
        return look

    def _events(self) -> tuple[list[Event], bool]:
        events: list[Event] = []
        while len(events) < PIECE:
            new = self._follower.poll()
            if not new:
                return events, True
            events += new
        return events, False

    def _log_lines(self) -> list[str]:
        try:
            status = self.run_dir.log_path.stat()
            key: object = (status.st_size, status.st_mtime_ns)
        except OSError:
            key = None
        if key != self._log_key:
            self._log_key, self._log = key, log_tail(self.run_dir, READ_LINES)
        reported = frozenset().union(*self._reported)
        return [line for line in self._log if line not in reported][-LOG_LINES:]

    def _explain(self, state: RunState) -> tuple[str, ...]:
        if state.state not in ("lost", "unknown"):
            return ()
        if self._explained[0] != state:
            self._explained = (state, explain(self.run_dir, state, last=self._last))
        return self._explained[1]
