"""The phases of a run."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """A phase, as in events, state and memory plan, with a `label` for people.

    A label can follow "while". (`title` is a method of every text.)
    """

    label: str

    def __new__(cls, name: str, label: str) -> Phase:
        member = str.__new__(cls, name)
        member._value_ = name
        member.label = label
        return member

    START = "start", "starting"
    """Before the first of the others; only an out-of-memory has it."""
    LOAD = "load", "loading"
    CACHE = "cache", "caching"
    TRAIN = "train", "training"
    SAMPLE = "sample", "generating samples"
    SAMPLE_LOW_MEMORY = "frugal", "generating samples in less memory"
    """In the memory plan: the fallback of a run where `SAMPLE` does not fit."""
    VALIDATE = "validate", "measuring the weights"
    SAVE = "save", "saving"
    CAPTION = "caption", "writing captions"

    @classmethod
    def label_of(cls, name: str) -> str:
        """The label of a phase that was read from a file; for an unknown one its name."""
        return next((phase.label for phase in cls if phase == name), name)
