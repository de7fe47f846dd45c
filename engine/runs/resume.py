"""Prepares an ended run to continue, with the settings that may change without making it another LoRA."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.atomic import write_bytes, write_text
from engine.errors import UsageError
from engine.reading import read_text
from engine.runs.control import clear
from engine.runs.events import EventLog, NoteEvent, SavedEvent
from engine.runs.extend import (
    Place,
    changes_from_here,
    changes_from_start,
    kept_name,
    place_of,
    require_same_epoch,
)
from engine.runs.identity import own_identity
from engine.runs.integrity import damaged_run_error
from engine.runs.layout import ARCHIVE, CURRENT, RunDir, own_files
from engine.runs.prepare import RESERVE_BYTES, absolute_paths, live_run_error, require_utf8, starter_lock, writing
from engine.runs.remarks import rename_favourite
from engine.runs.state import RunState, mark_starting, true_state
from engine.runs.states import newest_state, saved_states
from engine.text import printable, shell_line
from engine.types import Log

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.families.resolved import ResolvedRun
    from engine.types import Recognition

CHANGEABLE_TABLES = ("memory", "sampling", "logging")
CHANGEABLE_KEYS = (
    "training.train_batch_size", "training.gradient_accumulation_steps", "training.num_processes",
    "saving.save_every_n_epochs", "saving.save_every_n_steps", "saving.save_last_n_epochs", "saving.save_last_n_steps",
    "saving.save_state_every_n_steps",
)  # fmt: skip
"""What a resume may change, besides all keys of these tables and `engine.config.change.WEIGHT_KEYS`."""
EIGHT_BITS = ("training.optimizer_type", "AdamW8bit")
"""The one optimizer that a run with AdamW may change to: it only stores its state in fewer bits."""
_WHY_NOT = {
    "model": "the weights so far belong to the model that they were trained on",
    "dataset": "the weights so far were trained with it",
    "network": "the weights so far have that form",
    "training": "the weights so far were trained with it",
    "saving": "the files so far have it",
}


@dataclass(frozen=True)
class Resumption:
    """The effect of a resume."""

    state: RunState
    """The present state of the run."""
    text: str
    """The new configuration of the run; empty where nothing changes."""
    notes: tuple[str, ...]
    """A note for each change, and how the run continues."""
    kept: tuple[Path, Path] | None = None
    """The last file of a finished run, and its new name."""
    place: Place | None = None
    """Where it continues; None where it starts over, or only memory and outputs change."""


def plan_resume(run_dir: RunDir, changes: Mapping[str, object] | None = None) -> Resumption:
    """The effect of a resume with these settings; writes nothing.

    Args:
        changes: dotted key to its new value.

    Raises:
        UsageError: it is live or damaged; it is finished, and `changes` has no longer length; or a change would
            contradict the weights so far.
        ConfigError: an invalid value.
    """
    changes = changes or {}
    state = require_ended(run_dir)
    finished = state.state == "finished"
    if finished and not changes.keys() & {"training.max_train_epochs", "training.max_train_steps"}:
        raise UsageError(
            f"The run {run_dir.path} is finished: there is nothing to resume.",
            train_further(run_dir),
            code="run-finished",
        )
    text, notes, place = _change(run_dir, changes, state.step if finished else None)
    kept = None
    if finished and place is not None and (name := kept_name(run_dir, place)) is not None:
        kept = run_dir.lora_path(), name
        notes.append(
            f"{kept[0].name}, of step {place.step}, is kept as {name.name}; the plain name is for the new end."
        )
    return Resumption(state, text, tuple(notes), kept, place)


def prepare_resume(
    run_dir: RunDir, *, changes: Mapping[str, object] | None = None, log: Log = lambda _: None
) -> RunState:
    """Prepare an ended run for another launch; returns its state before.

    Args:
        changes: dotted key to its new value. They are checked, written into the run's configuration, whose comments
            are kept, and logged as events. A finished run needs a longer length among them.
        log: called with each change.

    Raises:
        UsageError: as `plan_resume`.
        ConfigError: an invalid value.
        StorageError: it cannot be written.
    """
    with writing(run_dir.path), starter_lock(run_dir.path.parent):
        resumption = plan_resume(run_dir, changes)
        state = resumption.state
        if state.state == "unknown":
            log(f"{state.detail}; it is resumed here. If it still runs there, stop it.")
        if left := clear(run_dir):
            log(f"Unanswered commands from before are dropped: {left}.")
        run_dir.control.mkdir(exist_ok=True)
        write_bytes(run_dir.reserve_path, os.urandom(RESERVE_BYTES))
        if resumption.text:
            write_text(run_dir.config_path, resumption.text)
        if resumption.kept is not None:
            _keep(run_dir, *resumption.kept, resumption.place)
        note(run_dir, resumption.notes, log)
        mark_starting(run_dir, own_identity())
        run_dir.exit_path.unlink(missing_ok=True)
    return state


def _keep(run_dir: RunDir, last: Path, name: Path, place: Place | None) -> None:
    """Rename the last file of a finished run to the name of its epoch or step, and report it as saved."""
    rename_favourite(run_dir, last.name, name.name)
    last.rename(name)
    step = place.step if place is not None else 0
    epoch = None
    if place is not None and place.updates_per_epoch is not None:
        epoch = -(-(step + place.shift) // place.updates_per_epoch)
    events = EventLog(run_dir.events_path, run_dir.reserve_path)
    try:
        size = name.stat().st_size
        events.emit(SavedEvent(path=str(name), bytes=size, step=step, epoch=epoch, difference=None))
    finally:
        events.close()


def require_ended(run_dir: RunDir) -> RunState:
    """The state of an ended run.

    Raises:
        UsageError: it is live, or cannot be used as a run.
    """
    state = true_state(run_dir)
    if state.state == "damaged":
        raise damaged_run_error(run_dir, state.detail)
    if state.live:
        raise live_run_error(run_dir, state)
    return state


def train_further(run_dir: RunDir) -> str:
    """Commands to train beyond the run's length: a longer run, where it has a state to continue from, and a new run
    that starts from its newest LoRA. Empty where it has neither."""
    longer = ("--set", "training.max_train_epochs=N")
    commands = []
    if saved_states(run_dir.checkpoints):
        command = shell_line(("lorasmith", "resume", run_dir.path, *longer))
        commands.append(f"To train it longer, to N epochs in all:\n  {command}")
    newest = newest_file(run_dir)
    if newest is not None:
        command = shell_line(("lorasmith", "resume", run_dir.path, "--from", newest.name, *longer))
        commands.append(f"To train N epochs more from {printable(newest.name)} in a new run:\n  {command}")
    return "\n".join(commands)


def newest_file(run_dir: RunDir) -> Path | None:
    """The last LoRA of a run, else the newest one; None without any."""
    last = run_dir.lora_path()
    files = [path for path in own_files(run_dir.path, run_dir.name) if path.suffix == ".safetensors"]
    return last if last in files else max(files, key=lambda path: path.stat().st_mtime, default=None)


def next_free_directory(run_dir: RunDir) -> Path:
    """A directory next to this run for a new run that continues it."""
    inner = run_dir.path.name == CURRENT or ARCHIVE.fullmatch(run_dir.path.name) is not None
    own = run_dir.path.parent if inner else run_dir.path
    names = (own.with_name(f"{own.name}-{number}") for number in count(2))
    free = next(path for path in names if not os.path.lexists(path))
    return free / CURRENT if inner else free


def change_settings(
    run_dir: RunDir, changes: Mapping[str, object], recognition: Recognition | None = None
) -> list[str]:
    """Write changed settings into the configuration of a run, for its trainer; a note for each.

    Args:
        recognition: of the run's checkpoint, where it is known.

    Raises:
        UsageError: a change would contradict the weights so far.
        ConfigError: an invalid value.
        StorageError: it cannot be written.
    """
    text, notes, _ = _change(run_dir, changes, None, recognition)
    if text:
        write_text(run_dir.config_path, text)
    return notes


def changed(run: ResolvedRun, changes: Mapping[str, object]) -> ResolvedRun:
    """The run with `changes`, if it still makes the same LoRA.

    Raises:
        UsageError: a key that a resume may not change, or a contradiction.
        ConfigError: an unknown key or an invalid value.
    """
    from pydantic import ValidationError

    from engine.config import ConfigError
    from engine.config.change import without_changes_of
    from engine.config.moved import present_key, present_tables
    from engine.config.problems import value_problems
    from engine.families.resolved import resolve_run

    config = run.written
    _require_existing(changes)
    written = {present_key(key): key for key in changes}
    refused = [key for key, value in changes.items() if not _changeable(config, key, value)]
    if refused:
        raise _not_changeable(refused)
    tables: dict[str, dict[str, Any]] = {}
    for dotted, value in changes.items():
        table, _, key = dotted.partition(".")
        tables.setdefault(table, {})[key] = value
    tables = present_tables(tables)
    if config.training.changes:
        tables.setdefault("training", {})["changes"] = without_changes_of(config.training.changes, written)
    try:
        new = absolute_paths(config.changed(**tables))
    except ValidationError as error:
        problems = value_problems(error, lambda *_: None, "the resume")
        raise ConfigError([replace(item, key=written.get(item.key, item.key)) for item in problems]) from None
    after = resolve_run(new, run.recognition)
    if after.config.network != run.config.network:
        raise UsageError(
            "memory.cache_text_encoder_outputs cannot be switched on in the middle of this run: its LoRA trains the "
            "text encoder.",
            "Start a new run with network.network_train_unet_only=true.",
            code="key-not-changeable",
        )
    require_utf8(new)
    return after


def _require_existing(changes: Mapping[str, object]) -> None:
    from engine.config import ConfigError
    from engine.config.moved import MOVED, both_names
    from engine.config.problems import Problem, keys, unknown_key

    tables, problems = keys(), []
    for dotted in changes:
        table, _, key = dotted.partition(".")
        if dotted in MOVED and MOVED[dotted] in changes:
            problems.append(Problem("the resume", dotted, f"{both_names(dotted)}.", f"Keep {MOVED[dotted]}."))
        elif key not in tables.get(table, ()) and dotted not in MOVED:
            problems.append(
                unknown_key("the resume", table if table in tables else None, key if table in tables else table)
            )
    if problems:
        raise ConfigError(problems)


def _not_changeable(keys: Sequence[str]) -> UsageError:
    from engine.config.change import WEIGHT_KEYS
    from engine.config.moved import MOVED, former_key, present_key

    moved = [now for before, now in MOVED.items() if before.partition(".")[0] in CHANGEABLE_TABLES]
    tables = [former_key(present_key(key)).partition(".")[0] for key in keys]
    reasons = dict.fromkeys(_WHY_NOT.get(table, "the weights so far depend on it") for table in tables)
    complete = [f"{table}.*" for table in CHANGEABLE_TABLES]
    allowed = f"It can change {', '.join((*complete, *moved, *CHANGEABLE_KEYS, *WEIGHT_KEYS))}"
    return UsageError(
        f"A resume cannot change {', '.join(keys)}: {'; '.join(reasons)}.",
        f"{allowed}; for others start a new run.",
        code="key-not-changeable",
    )


def _changeable(config: RunConfig, key: str, value: object) -> bool:
    from engine.config.moved import former_key, present_key

    if (key, value) == EIGHT_BITS:
        return config.training.optimizer_type.lower() in ("adamw", "adamw8bit")
    key = present_key(key)
    return former_key(key).partition(".")[0] in CHANGEABLE_TABLES or key in CHANGEABLE_KEYS


def _change(
    run_dir: RunDir, changes: Mapping[str, object], ended_at: int | None, recognition: Recognition | None = None
) -> tuple[str, list[str], Place | None]:
    """The new text of the run's configuration, empty where nothing changes, a note for each change, and the position
    of the run where a change applies from a step on.

    Args:
        ended_at: the step of a finished run's end.
    """
    from engine.config import load_config, update_toml
    from engine.config.change import WEIGHT_KEYS
    from engine.families.resolved import resolve_run, resolve_without_model

    if not changes:
        return "", [], None
    _require_existing(changes)
    require_same_epoch(changes)
    old = load_config(run_dir.config_path)
    listed = {key: value for key, value in changes.items() if key in WEIGHT_KEYS}
    place = place_of(run_dir, ended_at or 0) if listed else None
    if listed and place is None and ended_at is not None:
        raise UsageError(
            f"The run {run_dir.path} has no readable state: it cannot continue from its end.",
            train_further(run_dir),
            code="no-state-to-resume",
        )
    before = resolve_run(old, recognition) if recognition else resolve_without_model(old)
    run = changed(before, {key: value for key, value in changes.items() if key not in listed})
    new = run.written
    notes = _plain_notes(run_dir, old, new, [key for key in changes if key not in listed])
    if place is None:
        new, more = changes_from_start(new, listed)
    else:
        new, more = changes_from_here(run_dir, run, listed, place, finished=ended_at is not None)
    text = update_toml(read_text(run_dir.config_path), new) if new != old else ""
    return text, notes + more, place


def _plain_notes(run_dir: RunDir, old: RunConfig, new: RunConfig, keys: Sequence[str]) -> list[str]:
    """Notes on changes that apply to the complete run."""
    from engine.config.moved import split
    from engine.config.training_size import largest_batch

    before, after = old.model_dump(), new.model_dump()
    notes = []
    for dotted in keys:
        table, key = split(dotted)
        if before[table][key] != after[table][key]:
            notes.append(f"{dotted} was {_text(before[table][key])} and is now {_text(after[table][key])}.")
    gone = [text for text in old.training.changes if text not in new.training.changes]
    notes += [f"{text}, set while the run trained, gives way to that." for text in gone]
    sizes = [
        (largest_batch(run_dir.with_own_datasets(config)), config.training.gradient_accumulation_steps)
        for config in (old, new)
    ]
    if sizes[0] != sizes[1]:
        notes.append(_order_note(last_saved_step(run_dir) + 1, sizes[0], sizes[1]))
    return notes


def _order_note(step: int, old: tuple[int, int], new: tuple[int, int]) -> str:
    before, now = (batch * accumulation for batch, accumulation in (old, new))
    together = f"still takes {now}" if now == before else f"takes {now} instead of {before}"
    return f"From step {step} on images come in another order, {new[0]} at a time; a step {together}."


def last_saved_state(run_dir: RunDir) -> int | None:
    """The step of the newest undamaged state; None without one."""
    state = newest_state(run_dir.checkpoints)
    return (state.step or 0) if state else None


def last_saved_step(run_dir: RunDir) -> int:
    """The same, and 0 without one."""
    return last_saved_state(run_dir) or 0


def _text(value: object) -> str:
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def note(run_dir: RunDir, notes: Sequence[str], log: Log) -> None:
    """Log notes, also into the event log of a run that is not live."""
    if not notes:
        return
    events = EventLog(run_dir.events_path, run_dir.reserve_path)
    try:
        for text in notes:
            events.emit(NoteEvent(text=text))
            log(text)
    finally:
        events.close()
