"""Making an ended run ready to go on, with the settings that may change without making another LoRA of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.atomic import write_text
from engine.errors import UsageError
from engine.runs.control import clear
from engine.runs.events import EventLog
from engine.runs.identity import own_identity
from engine.runs.layout import RunDir
from engine.runs.prepare import RESERVE_BYTES, Say, absolute_paths, one_starter, require_utf8, still_live, writing
from engine.runs.state import RunState, mark_starting, true_state

if TYPE_CHECKING:
    from engine.config import RunConfig

CHANGEABLE_TABLES = ("memory", "sampling")
CHANGEABLE_KEYS = (
    "training.train_batch_size", "training.gradient_accumulation_steps", "saving.save_every_n_epochs",
    "saving.save_every_n_steps", "saving.save_last_n_epochs", "saving.save_last_n_steps",
    "saving.save_state_every_n_steps",
)  # fmt: skip
"""With all keys of these tables, what a resume may change."""
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
        UsageError: it is live, finished, or a change would make another LoRA of it.
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
        run_dir.reserve_path.write_bytes(os.urandom(RESERVE_BYTES))
        if text:
            write_text(run_dir.config_path, text)
        note(run_dir, notes, say)
        mark_starting(run_dir, own_identity())
        run_dir.exit_path.unlink(missing_ok=True)
    return state


def require_unfinished(run_dir: RunDir) -> RunState:
    """The state of a run that can be resumed.

    Raises:
        UsageError: it is live or finished.
    """
    state = true_state(run_dir)
    if state.live:
        raise still_live(run_dir, state)
    if state.state == "finished":
        raise UsageError(f"The run {run_dir.path} is finished: there is nothing to resume.", "")
    return state


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


def changed(config: RunConfig, changes: Mapping[str, object]) -> RunConfig:
    """`config` with `changes`, if it still makes the same LoRA.

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
        raise UsageError(
            f"A resume cannot change {', '.join(refused)}: it would make another LoRA.",
            f"It can change memory.*, sampling.*, {', '.join(CHANGEABLE_KEYS)}; for others begin a new run.",
        )
    try:
        new = absolute_paths(config.changed(**tables))
    except ValidationError as error:
        raise ConfigError(list(value_problems(error, lambda *_: "the resume"))) from None
    if resolve(new)[0].network != resolve(config)[0].network:
        raise UsageError(
            "memory.cache_text_encoder_outputs cannot be switched on in the middle of this run: its LoRA trains the "
            "text encoder.",
            "Begin a new run with network.network_train_unet_only=true.",
        )
    require_utf8(new)
    return new


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
    new = changed(old, changes)
    before, after = old.model_dump(), new.model_dump()
    notes = []
    for dotted in changes:
        table, _, key = dotted.partition(".")
        if before[table][key] != after[table][key]:
            notes.append(f"{dotted} was {_told(before[table][key])} and is now {_told(after[table][key])}.")
    text = update_toml(run_dir.config_path.read_text(encoding="utf-8-sig"), new) if notes else ""
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
    """The step of the newest saved state; None where there is none."""
    states = sorted(run_dir.checkpoints.glob("state-*.safetensors")) if run_dir.checkpoints.is_dir() else []
    steps = [path.stem.removeprefix("state-") for path in states]
    return max((int(step) for step in steps if step.isdecimal()), default=None)


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
