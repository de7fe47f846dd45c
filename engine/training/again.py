"""After an out-of-memory: take the next remedies and begin anew in the same process, which frees everything.

The process replaces itself (`execve`): its number, its lock and its log stay, its memory and its CUDA context go. What
was tried stands in the event log, as everything else about a run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from engine.config import RunConfig
from engine.config.load import written
from engine.errors import LoraSmithError
from engine.memory.remedy import Remedy
from engine.memory.shortage import Shortage
from engine.memory.weighing import Way
from engine.runs.events import Event, read_events
from engine.runs.launch import trainer_command, trainer_environment
from engine.runs.layout import RunDir
from engine.runs.lock import keep_lock
from engine.runs.resume import change_settings
from engine.text import size_text
from engine.training.session import Session

RESTART = "restart"
MOST_IN_A_ROW = 12
"""Attempts without a step between them after which the run gives up: there are fewer remedies than that."""


@dataclass(frozen=True)
class Attempt:
    """What is tried next."""

    remedy: str
    """Names of the remedies, with commas between them; "restart" where the settings stay."""
    text: str
    """One sentence for a person."""
    changes: Mapping[str, object] = field(default_factory=dict)


def next_attempt(
    config: RunConfig, found: Sequence[Remedy], shortage: Shortage, run: RunDir, planned: Callable[[], Way | None]
) -> Attempt | None:
    """What to try after `shortage`; None when nothing is left, or when the person wants to be asked.

    Where the training step is not what needs the memory, or where enough was reserved but in pieces, a new start alone
    may do: it is tried once at each step.

    Args:
        found: the remedies that apply, the cheapest first.
        planned: asks the memory plan which of them are enough; None where there is no plan: they are tried one by one.
    """
    if config.memory.on_oom in ("ask", "stop"):
        return None
    tried = _tried_since_the_last_step(run)
    if len(tried) >= MOST_IN_A_ROW:
        return None
    restarted = any(event.get("remedy") == RESTART for event in tried)
    if not restarted and (shortage.phase in ("save", "validate") or shortage.fragmented):
        why = (
            "the memory is there, but in pieces" if shortage.fragmented else "it needs less than the training around it"
        )
        return Attempt(RESTART, f"Starting anew with the same settings: {why}.")
    first = next((remedy for remedy in found if remedy.changes), None)
    if first is None:
        return None
    way = planned()
    if way is None or not way.taken:
        return _attempt([first])
    return _attempt([one.remedy for one in way.taken], _by_plan(way))


def _attempt(taken: Sequence[Remedy], plan: str = "") -> Attempt:
    changes = {key: value for remedy in taken for key, value in remedy.changes.items()}
    sentences = []
    for remedy in taken:
        told = ", ".join(f"{key} = {written(value)}" for key, value in remedy.changes.items())
        sentences.append(f"{remedy.title} ({told}). {remedy.why}")
    return Attempt(", ".join(remedy.name for remedy in taken), " ".join([*sentences, plan]).strip(), changes)


def _by_plan(way: Way) -> str:
    need = way.goal.need(way.plan)
    told = f"{size_text(need.reserved)} of {size_text(way.goal.room)} that are there"
    if way.fits:
        return f"By plan it then takes {told}."
    return f"By plan it then takes {told}: no other remedy would save much."


def _tried_since_the_last_step(run: RunDir) -> list[Event]:
    tried: list[Event] = []
    for event in read_events(run.events_path):
        if event.type == "step":
            tried.clear()
        elif event.type == "retry":
            tried.append(event)
    return tried


def begin_again(session: Session, attempt: Attempt) -> NoReturn:
    """Write the changed settings, tell what is tried, and start this process anew. Does not return.

    Raises:
        LoraSmithError: the settings cannot be changed or written.
    """
    run = session.run
    notes = change_settings(run, attempt.changes)
    session.events.emit("retry", step=session.step, remedy=attempt.remedy, text=attempt.text, changes=attempt.changes)
    for note in notes:
        session.say(note)
    session.state.update(state="starting", phase="", force=True)
    session.events.sync()
    session.end_others()
    keep_lock(run.lock_path)
    command = trainer_command(run)
    os.execve(command[0], command, trainer_environment())


def save_what_fits(session: Session, config: RunConfig, card: str) -> None:
    """After a run that needed remedies: its settings as a preset of the person's own, to begin with next time."""
    if not any(event.type == "retry" and event.get("changes") for event in read_events(session.run.events_path)):
        return
    from engine.config.own_presets import preset_name, save_preset

    name = preset_name(f"{session.run.name}-fits")
    title = f"The settings of {session.run.name} that fit {card}"
    try:
        path = save_preset(name, str(session.run.config_path), config, title, overwrite=True)
    except LoraSmithError as error:
        session.warn("preset", f"The settings that fit could not be kept as a preset: {error}")
        return
    session.say(f"The settings that fit {card} are the preset {name} now: {path}")
