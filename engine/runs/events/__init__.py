"""`events.jsonl`: the events of a run, one JSON object a line.

A class for each type of event (`models`), the one writer (`log`), any number of readers (`follower`).
"""

from engine.runs.events.fields import Field
from engine.runs.events.follower import EventFollower, parse_event, read_events
from engine.runs.events.log import EventLog
from engine.runs.events.models import (
    EVENT_TYPES,
    MODELS,
    VERSION,
    ChangedEvent,
    ControlAckEvent,
    ErrorEvent,
    Event,
    MeasuresEvent,
    MemoryPlanEvent,
    NoteEvent,
    OomEvent,
    PhaseEvent,
    ProgressEvent,
    RetryEvent,
    RunFinishedEvent,
    RunStartedEvent,
    SampleEvent,
    SampleMeasuresEvent,
    SavedEvent,
    StateSavedEvent,
    StepEvent,
    ValidationEvent,
    WarningEvent,
    event_of,
)

__all__ = [
    "EVENT_TYPES",
    "MODELS",
    "VERSION",
    "ChangedEvent",
    "ControlAckEvent",
    "ErrorEvent",
    "Event",
    "EventFollower",
    "EventLog",
    "Field",
    "MeasuresEvent",
    "MemoryPlanEvent",
    "NoteEvent",
    "OomEvent",
    "PhaseEvent",
    "ProgressEvent",
    "RetryEvent",
    "RunFinishedEvent",
    "RunStartedEvent",
    "SampleEvent",
    "SampleMeasuresEvent",
    "SavedEvent",
    "StateSavedEvent",
    "StepEvent",
    "ValidationEvent",
    "WarningEvent",
    "event_of",
    "parse_event",
    "read_events",
]
