"""Making an ended run ready to go on, with the settings that may change without making another LoRA of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.atomic import write_bytes, write_text
from engine.errors import UsageError
from engine.reading import read_text
from engine.runs.control import clear
from engine.runs.events import EventLog
from engine.runs.identity import own_identity
from engine.runs.integrity import damaged
from engine.runs.layout import ARCHIVE, CURRENT, RunDir, own_files
from engine.runs.prepare import RESERVE_BYTES, Say, absolute_paths, one_starter, require_utf8, still_live, writing
from engine.runs.state import RunState, mark_starting, true_state
from engine.runs.states import newest_state
from engine.text import printable, shell_line

if TYPE_CHECKING:
    from engine.config import RunConfig

CHANGEABLE_TABLES = ("memory", "sampling")
CHANGEABLE_KEYS = (
    "training.train_batch_size", "training.gradient_accumulation_steps", "saving.save_every_n_epochs",
    "saving.save_every_n_steps", "saving.save_last_n_epochs", "saving.save_last_n_steps",
    "saving.save_state_every_n_steps",
)  # fmt: skip
"""With all keys of these tables, what a resume may change."""
LENGTH_KEYS = ("training.max_train_epochs", "training.max_train_steps")
EIGHT_BITS = ("training.optimizer_type", "AdamW8bit")
"""The one other optimizer that a run with AdamW may go on with: it only keeps its state in fewer bits."""


def prepare_resume(
    run_dir: RunDir, *, changes: Mapping[str, object] | None = None, say: Say = lambda _: None
) -> RunState:
    """Make an ended, unfinished run ready to launch again; returns the state it was in.

    Args:
        changes: dotted key to its new value. They are checked, written into the run's configuration with its comments
            kept, and each is noted in the event log.
        say: is told what was changed and dropped.

    Raises:
        UsageError: it is live, finished, damaged, or a change would make another LoRA of it.
        ConfigError: a changed value cannot be.
        StorageError: it cannot be written.
    """
    with writing(run_dir.path), one_starter(run_dir.path.parent):
        state = require_unfinished(run_dir)
        text, notes = _change(run_dir, changes or {})
        if state.state == "unknown":
            say(f"{state.detail}; it is resumed here. If it still runs there, stop it.")
        if left := clear(run_dir):
            say(f"Unanswered wishes of the earlier part are dropped: {left}.")
        run_dir.control.mkdir(exist_ok=True)
        write_bytes(run_dir.reserve_path, os.urandom(RESERVE_BYTES))
        if text:
            write_text(run_dir.config_path, text)
        note(run_dir, notes, say)
        mark_starting(run_dir, own_identity())
        run_dir.exit_path.unlink(missing_ok=True)
    return state


def require_unfinished(run_dir: RunDir) -> RunState:
    """The state of a run that can be resumed.

    Raises:
        UsageError: it is live, finished, or cannot be used as a run.
    """
    state = true_state(run_dir)
    if state.state == "damaged":
        raise damaged(run_dir, state.detail)
    if state.live:
        raise still_live(run_dir, state)
    if state.state == "finished":
        raise UsageError(f"The run {run_dir.path} is finished: there is nothing to resume.", train_further(run_dir))
    return state


def train_further(run_dir: RunDir) -> str:
    """How to train more than the run's length: a new run that starts from its newest LoRA, as a command. Empty where it
    has none."""
    last = run_dir.lora_path()
    files = [path for path in own_files(run_dir.path, run_dir.name) if path.suffix == ".safetensors"]
    newest = last if last in files else max(files, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        return ""
    settings = (f"network.network_weights={newest}", "training.max_train_epochs=N")
    words = ["lorasmith", "--preset", str(run_dir.config_path), "--output_dir", str(_place_beside(run_dir))]
    command = shell_line([*words, *(word for setting in settings for word in ("--set", setting))])
    return (
        f"To train N more epochs from {printable(newest.name)}, start a new run (on the screen: the key t in its "
        f"results); the optimizer and the schedule start anew:\n  {command}"
    )


def _place_beside(run_dir: RunDir) -> Path:
    """A directory for a run that continues this one, which stays where it is."""
    inner = run_dir.path.name == CURRENT or ARCHIVE.fullmatch(run_dir.path.name) is not None
    own = run_dir.path.parent if inner else run_dir.path
    names = (own.with_name(f"{own.name}-{number}") for number in count(2))
    free = next(path for path in names if not os.path.lexists(path))
    return free / CURRENT if inner else free


def change_settings(run_dir: RunDir, changes: Mapping[str, object]) -> list[str]:
    """Write changed settings into the configuration of a run whose trainer asks for it; a sentence for each.

    Raises:
        UsageError: a change would make another LoRA of it.
        ConfigError: a changed value cannot be.
        StorageError: it cannot be written.
    """
    text, notes = _change(run_dir, changes)
    if text:
        write_text(run_dir.config_path, text)
    return notes


def changed(config: RunConfig, changes: Mapping[str, object], further: str = "") -> RunConfig:
    """`config` with `changes`, if it still makes the same LoRA.

    Args:
        further: how to train longer, for who asks for another length.

    Raises:
        UsageError: a key that is not known, or that a resume may not change.
        ConfigError: a value that cannot be.
    """
    from pydantic import ValidationError

    from engine.config import ConfigError, resolve
    from engine.config.problems import keys, unknown_key, value_problems

    known, tables, problems = keys(), dict[str, dict[str, Any]](), []
    for dotted, value in changes.items():
        table, _, key = dotted.partition(".")
        if key not in known.get(table, ()):
            problems.append(
                unknown_key("the resume", table if table in known else None, key if table in known else table)
            )
        tables.setdefault(table, {})[key] = value
    if problems:
        raise ConfigError(problems)
    refused = [key for key, value in changes.items() if not _changeable(config, key, value)]
    if refused:
        raise _not_changeable(refused, further)
    try:
        new = absolute_paths(config.changed(**tables))
    except ValidationError as error:
        raise ConfigError(list(value_problems(error, lambda *_: None, "the resume"))) from None
    if resolve(new)[0].network != resolve(config)[0].network:
        raise UsageError(
            "memory.cache_text_encoder_outputs cannot be switched on in the middle of this run: its LoRA trains the "
            "text encoder.",
            "Begin a new run with network.network_train_unet_only=true.",
        )
    require_utf8(new)
    return new


def _not_changeable(keys: Sequence[str], further: str) -> UsageError:
    names = ", ".join(keys)
    if all(key in LENGTH_KEYS for key in keys):
        reason, hint = "the learning rate's schedule is made for the run's whole length.", further
    else:
        reason, hint = "it would make another LoRA.", ""
    allowed = f"It can change memory.*, sampling.*, {', '.join(CHANGEABLE_KEYS)}; for others begin a new run."
    return UsageError(f"A resume cannot change {names}: {reason}", hint or allowed)


def _changeable(config: RunConfig, key: str, value: object) -> bool:
    if (key, value) == EIGHT_BITS:
        return config.training.optimizer_type.lower() in ("adamw", "adamw8bit")
    return key.partition(".")[0] in CHANGEABLE_TABLES or key in CHANGEABLE_KEYS


def _change(run_dir: RunDir, changes: Mapping[str, object]) -> tuple[str, list[str]]:
    """The new text of the run's configuration, empty where nothing changes, and a sentence for each change."""
    from engine.config import load_config, update_toml
    from engine.config.training_size import largest_batch

    if not changes:
        return "", []
    old = load_config(run_dir.config_path)
    new = changed(old, changes, train_further(run_dir) if changes.keys() & LENGTH_KEYS else "")
    before, after = old.model_dump(), new.model_dump()
    notes = []
    for dotted in changes:
        table, _, key = dotted.partition(".")
        if before[table][key] != after[table][key]:
            notes.append(f"{dotted} was {_told(before[table][key])} and is now {_told(after[table][key])}.")
    text = update_toml(read_text(run_dir.config_path), new) if notes else ""
    sizes = [
        (largest_batch(run_dir.with_own_datasets(config)), config.training.gradient_accumulation_steps)
        for config in (old, new)
    ]
    if sizes[0] != sizes[1]:
        notes.append(_order_note(last_saved_step(run_dir) + 1, sizes[0], sizes[1]))
    return text, notes


def _order_note(step: int, old: tuple[int, int], new: tuple[int, int]) -> str:
    before, now = (batch * accumulation for batch, accumulation in (old, new))
    together = f"still takes {now}" if now == before else f"takes {now} in place of {before}"
    return f"From step {step} on pictures come in another order, {new[0]} at a time; a step {together}."


def last_saved_state(run_dir: RunDir) -> int | None:
    """The step of the newest saved state that is not damaged; None where there is none."""
    state = newest_state(run_dir.checkpoints)
    return (state.step or 0) if state else None


def last_saved_step(run_dir: RunDir) -> int:
    """The same, and 0 where there is none."""
    return last_saved_state(run_dir) or 0


def _told(value: object) -> str:
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def note(run_dir: RunDir, notes: Sequence[str], say: Say) -> None:
    """Write sentences into the event log of a run that is not live, and say them."""
    if not notes:
        return
    log = EventLog(run_dir.events_path, run_dir.reserve_path)
    try:
        for text in notes:
            log.emit("note", text=text)
            say(text)
    finally:
        log.close()
