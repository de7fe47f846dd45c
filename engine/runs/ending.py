"""How a process of ours reports its end and prints its log: the trainer and the captioner."""

from __future__ import annotations

from contextlib import suppress

from engine.errors import StorageError
from engine.exit_codes import ExitCode
from engine.runs.events import ErrorEvent, EventLog, RunFinishedEvent
from engine.runs.layout import RunDir
from engine.runs.state import StateWriter, write_exit


def report_end(
    run: RunDir, events: EventLog, writer: StateWriter, state: str, exit_code: ExitCode, step: int, **details: str
) -> ExitCode:
    """Report how a run ended: first in exit.json, then in events, state.json and the log.

    Args:
        details: code, title, message and hint of an error.
    """
    with suppress(StorageError):  # the events and the exit code have it too
        write_exit(run, state, exit_code, step, **details)
    if details:
        events.emit(ErrorEvent(**details))
        print_line(f"{details['title']}: {details['message']} {details['hint']}".strip())
    writer.update(force=True, state=state, phase="")
    events.emit(RunFinishedEvent(state=state, exit_code=int(exit_code), step=step))
    events.sync()
    return exit_code


def print_line(text: str) -> None:
    """Print a line to the log; a full disk must not end the run."""
    with suppress(OSError):  # outside `unfailing_output` too
        print(text, flush=True)
