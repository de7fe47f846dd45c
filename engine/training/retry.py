"""After an out-of-memory: apply the next remedies and restart the trainer within its process.

The process replaces itself (`execve`): its number, its lock and its log stay, its memory and its CUDA context are
freed. What was tried is in the event log.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from engine.config.literals import written
from engine.families.resolved import ResolvedRun
from engine.oom.choose import RemedySet
from engine.oom.remedy import Remedy
from engine.processes import trainer_environment
from engine.runs.events import RetryEvent, StepEvent, read_events
from engine.runs.launch import trainer_command
from engine.runs.layout import RunDir
from engine.runs.lock import keep_lock
from engine.runs.resume import change_settings
from engine.runs.shortage import Shortage
from engine.text import size_text
from engine.training.session import Session

RESTART = "restart"
MAX_ATTEMPTS = 12
"""Attempts without a step between them after which the run gives up; there are fewer remedies."""


@dataclass(frozen=True)
class Attempt:
    """What is tried next."""

    remedy: str
    """Names of the remedies, separated by commas; "restart" if the settings stay."""
    text: str
    """One sentence for the user."""
    changes: Mapping[str, object] = field(default_factory=dict)


def next_attempt(
    run: ResolvedRun,
    applicable: Sequence[Remedy],
    shortage: Shortage,
    run_dir: RunDir,
    plan_remedies: Callable[[], RemedySet | None],
) -> Attempt | None:
    """What to try after `shortage`; None if nothing is left, or if the user decides (`memory.on_oom`).

    Outside the training step, or if the memory was fragmented, a plain restart may be enough: it is tried once at each
    step.

    Args:
        applicable: remedies, the cheapest first.
        plan_remedies: chooses those that are enough by the memory plan; None without a plan: they are tried one by one.
    """
    if run.config.memory.on_oom in ("ask", "stop"):
        return None
    tried = _attempts_since_last_step(run_dir)
    if len(tried) >= MAX_ATTEMPTS:
        return None
    restarted = any(event.remedy == RESTART for event in tried)
    if not restarted and (shortage.phase in ("save", "validate") or shortage.fragmented):
        why = (
            "the memory was fragmented" if shortage.fragmented else f"{shortage.phase} needs less than a training step"
        )
        return Attempt(RESTART, f"Restarting with the same settings: {why}.")
    first = next((remedy for remedy in applicable if remedy.changes), None)
    if first is None:
        return None
    remedy_set = plan_remedies()
    if remedy_set is None or not remedy_set.effects:
        return _attempt([first])
    return _attempt([effect.remedy for effect in remedy_set.effects], _planned_sizes(remedy_set))


def _attempt(remedies: Sequence[Remedy], plan: str = "") -> Attempt:
    changes = {key: value for remedy in remedies for key, value in remedy.changes.items()}
    sentences = []
    for remedy in remedies:
        keys = ", ".join(f"{key} = {written(value)}" for key, value in remedy.changes.items())
        sentences.append(f"{remedy.title} ({keys}). {remedy.why}")
    return Attempt(", ".join(remedy.name for remedy in remedies), " ".join([*sentences, plan]).strip(), changes)


def _planned_sizes(remedy_set: RemedySet) -> str:
    need = remedy_set.budget.need(remedy_set.plan)
    sizes = f"{size_text(need.reserved)} of {size_text(remedy_set.budget.room)} available"
    if remedy_set.fits:
        return f"By plan it then takes {sizes}."
    return f"By plan it then takes {sizes}: no other remedy would save much."


def _attempts_since_last_step(run: RunDir) -> list[RetryEvent]:
    tried: list[RetryEvent] = []
    for event in read_events(run.events_path):
        if isinstance(event, StepEvent):
            tried.clear()
        elif isinstance(event, RetryEvent):
            tried.append(event)
    return tried


def restart_with(session: Session, attempt: Attempt) -> NoReturn:
    """Write the changed settings, report the attempt, and replace this process. Does not return.

    Raises:
        LoraSmithError: the settings cannot be changed or written.
    """
    run = session.run
    notes = change_settings(run, attempt.changes, session.recognition)
    session.events.emit(
        RetryEvent(step=session.step, remedy=attempt.remedy, text=attempt.text, changes=attempt.changes)
    )
    for note in notes:
        session.log(note)
    session.state.update(state="starting", phase="", force=True)
    session.events.sync()
    keep_lock(run.lock_path)
    command = trainer_command(run)
    os.execve(command[0], command, trainer_environment())
