"""The setting that a problem of the review is about, on its way to the step Parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.config import ConfigError
from engine.config.form import fields
from tui.setup.draft import STEP_OF
from tui.text.fields import KEY

if TYPE_CHECKING:
    from engine.errors import LoraSmithError
    from tui.setup.draft import Draft

_FAULT = "parameters.fault"
"""In the draft's extras, until the step Parameters is shown."""


def fault_of(error: LoraSmithError) -> dict[str, str]:
    """The parameter that a problem names first, with the sentence about it; empty where it names none."""
    problems = error.problems if isinstance(error, ConfigError) else ()
    sentences = {problem.key: problem.message for problem in problems if problem.key in fields()}
    for text in (error.message, error.hint):
        for key in KEY.findall(text):
            sentences.setdefault(key, error.message)
    faults = ((key, text) for key, text in sentences.items() if key in fields() and key not in STEP_OF)
    return next(({key: text.removeprefix(f"{key}: ")} for key, text in faults), {})


def record_fault(draft: Draft, fault: dict[str, str]) -> None:
    """Have the step Parameters begin with this field."""
    draft.extras[_FAULT] = fault


def take_fault(draft: Draft) -> dict[str, str]:
    """The field with which the step begins, this time only."""
    fault = draft.extras.pop(_FAULT, None)
    return {key: str(text) for key, text in fault.items() if key in fields()} if isinstance(fault, dict) else {}
