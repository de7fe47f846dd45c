"""The outputs of the restored step that an earlier process wrote: they are not written again."""

from __future__ import annotations

from engine.runs import RunDir
from engine.runs.events import Event, MeasuresEvent, SampleEvent, SavedEvent, ValidationEvent, read_events


class WrittenOutputs:
    """What the events of a run report as written at the step from which it continues; nothing before `read`."""

    def __init__(self) -> None:
        self._step = -1
        self._keys: set[tuple[str, str]] = set()

    def read(self, run: RunDir, step: int) -> None:
        """Read the outputs of `step` from the run's events."""
        self._step = step
        self._keys = {
            (event.type, _which(event))
            for event in read_events(run.events_path)
            if isinstance(event, (SavedEvent, SampleEvent, ValidationEvent, MeasuresEvent)) and event.step == step
        }

    def has(self, kind: str, step: int, which: str = "") -> bool:
        """Whether an output of `step` is written.

        Args:
            kind: the type of its event.
            which: the path of a file, the prompt's index of a sample.
        """
        return step == self._step and (kind, which) in self._keys


def _which(event: Event) -> str:
    """Distinguishes events of the same type and step: the file's path, or the sample's index."""
    match event:
        case SampleEvent():
            return str(event.index)
        case SavedEvent():
            return event.path
        case _:
            return ""
