"""The run directory: layout, events, control, lock, launching, following and finding runs. Imports no torch."""

from engine.runs.control import Command, ControlBox, request
from engine.runs.events import Event, EventFollower, EventLog, read_events
from engine.runs.find import KnownRun, find_runs, record_run, resolve, resolve_live
from engine.runs.follow import Ending
from engine.runs.layout import RunDir
from engine.runs.lock import RunLock, is_locked
from engine.runs.prepare import prepare_run
from engine.runs.resume import prepare_resume
from engine.runs.state import RunState, StateWriter, true_state, write_exit

__all__ = [
    "Command",
    "ControlBox",
    "Ending",
    "Event",
    "EventFollower",
    "EventLog",
    "KnownRun",
    "RunDir",
    "RunLock",
    "RunState",
    "StateWriter",
    "find_runs",
    "is_locked",
    "prepare_resume",
    "prepare_run",
    "read_events",
    "record_run",
    "request",
    "resolve",
    "resolve_live",
    "true_state",
    "write_exit",
]
