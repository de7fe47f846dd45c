"""How long a run was worked on: the time between its starts, and while it was paused, does not count."""

from __future__ import annotations

from engine.runs.events import (
    ChangedEvent,
    ControlAckEvent,
    Event,
    NoteEvent,
    RunFinishedEvent,
    RunStartedEvent,
    SavedEvent,
)

_OF_OTHERS = (NoteEvent, SavedEvent, ChangedEvent)
"""Events that the preparation of a resume writes as well, while no trainer runs."""


class WorkingTime:
    """Adds up the time between the events of a trainer, from each start to its end."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None
        """The newest event of a trainer that works; None: none does."""
        self._has_begun = False

    def take(self, event: Event) -> None:
        """The next event."""
        if isinstance(event, RunStartedEvent) or not self._has_begun:
            self._has_begun, self._since = True, event.time
        if self._since is None:
            if isinstance(event, ControlAckEvent) and event.command == "continue":
                self._since = event.time
            return
        if isinstance(event, _OF_OTHERS):
            return
        self.seconds += max(0.0, event.time - self._since)
        is_pause = isinstance(event, ControlAckEvent) and (event.command, event.result) == ("pause", "done")
        self._since = None if is_pause or isinstance(event, RunFinishedEvent) else event.time
