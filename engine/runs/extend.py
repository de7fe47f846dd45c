"""A run that continues with other rates or to another length: the consequences in figures, before the start.

Its step, its position in the epoch and its halved rates are those of the newest state. Loads no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import UsageError
from engine.reading import is_regular
from engine.runs.layout import RunDir
from engine.runs.states import newest_state
from engine.runs.values import count
from engine.text import plural

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.config.change import Change
    from engine.config.training import TrainingTable
    from engine.families.resolved import ResolvedRun

_EPOCH_LENGTH = ("training.train_batch_size", "training.gradient_accumulation_steps", "training.num_processes")


@dataclass(frozen=True)
class Place:
    """The position of a run."""

    step: int
    """Updates made."""
    updates_per_epoch: int | None
    """None: unknown, as in states of early versions."""
    shift: int = 0
    """See `StepPlan.shift`."""
    halvings: int = 0
    """How often its rates were halved after a non-finite loss."""

    def length(self, training: TrainingTable) -> int:
        """Updates of a complete run with these settings.

        Raises:
            UsageError: a length in epochs, where the updates per epoch are unknown; or too many.
        """
        from engine.config.training import MAX_STEPS

        epochs = training.max_train_epochs
        if epochs is None:
            return training.max_train_steps
        if self.updates_per_epoch is None:
            raise UsageError(
                "The state of this run is of an early version and lacks the number of steps per epoch.",
                "Give the length in steps: --set training.max_train_steps=N.",
                code="epochs-unknown",
            )
        length = epochs * self.updates_per_epoch - self.shift
        if length > MAX_STEPS:
            raise UsageError(
                f"training.max_train_epochs: {epochs} epochs are {length} steps; a run can have up to {MAX_STEPS}.",
                "Choose fewer epochs.",
                code="length-too-long",
            )
        return length

    def epochs(self, steps: int) -> str:
        """ ", the end of epoch 3" or ", in epoch 3" for a number of steps; empty where unknown."""
        if self.updates_per_epoch is None:
            return ""
        epochs, inside = divmod(steps + self.shift, self.updates_per_epoch)
        return f", {'in epoch' if inside else 'the end of epoch'} {epochs + bool(inside)}"


def place_of(run_dir: RunDir, ended_at: int = 0) -> Place | None:
    """Where an ended run continues; None where it has no state to continue from.

    Args:
        ended_at: the step at which a finished run ended; its newest state may be an older one, and the steps between
            are then repeated.
    """
    state = newest_state(run_dir.checkpoints)
    if state is None:
        return None
    place, recovery = (state.value(key) or {} for key in ("place", "recovery"))
    shift = place.get("shift", 0)
    return Place(
        max(state.step or 0, ended_at),
        count(place.get("updates_per_epoch")) or None,
        shift if isinstance(shift, int) else 0,
        count(recovery.get("halvings"), 100) or 0,
    )


def changes_from_start(config: RunConfig, listed: Mapping[str, object]) -> tuple[RunConfig, list[str]]:
    """For a run without a state, which starts over: changes apply from its first step."""
    from engine.config.change import Change, without_changes_of

    notes = []
    for key, value in listed.items():
        before = config
        config = _applied(config, Change(0, key, value))
        texts = without_changes_of(config.training.changes, [key])
        config = config.changed(training={"changes": texts})
        if config != before:
            notes.append(f"{Change(0, key, value).text} from the first step on.")
    return config, notes


def changes_from_here(
    run_dir: RunDir, run: ResolvedRun, listed: Mapping[str, object], place: Place, *, finished: bool
) -> tuple[RunConfig, list[str]]:
    """The configuration with changes from the present step on, a note for each, and their consequences.

    Args:
        listed: key of `WEIGHT_KEYS` to its value.

    Raises:
        UsageError: a length that is reached already, or a rate that cannot change during a run.
        ConfigError: an invalid value.
    """
    from engine.config.change import LENGTH_KEYS, RATE_KEYS, Change
    from engine.config.changes import effective_config, with_change

    written, notes, before = run.written, [], effective_config(run.config, place.step)
    now: RunConfig = before
    for key, value in listed.items():
        change = Change(place.step, key, value)
        after = _applied(now, change)
        if key in LENGTH_KEYS:
            require_length(run_dir, place, after, change, finished=finished)
        if after == now:
            continue
        if key in RATE_KEYS:
            require_rate(now, after, change)
        written, replaced = with_change(written, change)
        notes += [f"{change.text} from step {place.step + 1} on.", *(f"{old} is dropped." for old in replaced)]
        now = after
    return written, notes + statement(place, before, now)


def _applied(config: RunConfig, change: Change) -> RunConfig:
    from pydantic import ValidationError

    from engine.config import ConfigError
    from engine.config.changes import changed_by
    from engine.config.problems import value_problems

    try:
        return changed_by(config, change)
    except ValidationError as error:
        raise ConfigError(list(value_problems(error, lambda *_: None, "the resume"))) from None


def require_length(run_dir: RunDir, place: Place, config: RunConfig, change: Change, *, finished: bool) -> None:
    """Refuse a length that the run has reached already.

    Args:
        config: the settings in force with `change`.

    Raises:
        UsageError: with the number of steps made.
    """
    length = place.length(config.training)
    if length > place.step or (length == place.step and not finished):
        return
    raise UsageError(
        f"The run {run_dir.path} has made {plural(place.step, 'step')}{place.epochs(place.step)}, and {change.text} "
        f"ends after {length}.",
        "Give a larger number. To continue from an earlier file: lorasmith resume RUN --from FILE.",
        code="length-passed",
    )


def statement(place: Place, before: RunConfig, after: RunConfig) -> list[str]:
    """How the run continues: its start, its end and its learning rate. Empty where nothing changes.

    Args:
        before, after: the resolved settings in force without and with the new changes.
    """
    old, new = place.length(before.training), place.length(after.training)
    rates = [_rates(config) for config in (before, after)]
    if old == new and rates[0] == rates[1]:
        return []
    lines = []
    if old != new:
        lines.append(
            f"The run continues from step {place.step}{place.epochs(place.step)}, and ends after step {new}"
            f"{place.epochs(new)}, instead of after step {old}."
        )
    return [*lines, _rate_line(place, before.training, after.training, (old, new), rates)]


def _rate_line(
    place: Place, old: TrainingTable, new: TrainingTable, lengths: tuple[int, int], rates: Sequence[Mapping[str, float]]
) -> str:
    """The learning rate of the next step before and after, and at the end."""
    from engine.config.rate_shape import is_constant, share

    # The shape of the schedule is the run's own, with its first rate; only length and rates change.
    before, after = (share(old, place.step, length) for length in lengths)
    last = share(old, max(place.step, lengths[1] - 1), lengths[1])
    factor = 0.5**place.halvings
    if is_constant(old):
        if rates[0] == rates[1]:
            return f"Learning rate: it stays at {_figures(rates[1], factor)} to the end ({_name(old)})."
        return f"Learning rate: from {_figures(rates[0], factor)} to {_figures(rates[1], factor)} ({_name(old)})."
    method = f"computed over {lengths[1]} steps instead of {lengths[0]}" if lengths[0] != lengths[1] else "as before"
    now, without, end = (
        _figures(*pair) for pair in ((rates[1], after * factor), (rates[0], before * factor), (rates[1], last * factor))
    )
    return (
        f"Learning rate: the schedule {old.lr_scheduler} is {method}. Step {place.step + 1} has {now}, where it would "
        f"have had {without}; the last step, {lengths[1]}, has {end}."
    )


def _name(training: TrainingTable) -> str:
    from engine.config.training import is_schedule_free

    free = is_schedule_free(training.optimizer_type)
    return f"{training.optimizer_type} has no schedule" if free else f"schedule {training.lr_scheduler}"


def _rates(config: RunConfig) -> dict[str, float]:
    """The learning rates of the trained parts."""
    from engine.config.trained import is_trained

    text = config.training.text_rates
    titles = [f"text encoder {number}" for number in range(1, len(text) + 1)] if len(text) > 1 else ["text encoder"]
    rates = {"U-Net": (config.training.rates[0], True)}
    rates |= {title: (rate, False) for title, rate in zip(titles, text, strict=True)}
    return {name: rate for name, (rate, denoiser) in rates.items() if rate and is_trained(config, denoiser=denoiser)}


def _figures(rates: Mapping[str, float], factor: float) -> str:
    texts = {name: f"{rate * factor:.3g}" for name, rate in rates.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return " and ".join(f"{figure} ({name})" for name, figure in texts.items())


def require_rate(before: RunConfig, after: RunConfig, change: Change) -> None:
    """Refuse a rate that starts or ends the training of a part, or that no part uses.

    Raises:
        UsageError: with the reason.
    """
    old, new = _rates(before), _rates(after)
    if old.keys() != new.keys():
        part = next(iter(old.keys() ^ new.keys()))
        raise UsageError(
            f"{change.text} would {'start' if part in new else 'end'} the training of the {part} in the middle of the "
            "run.",
            "Start a new run from its file: lorasmith resume RUN --from FILE.",
            code="rate-not-changeable",
        )
    if old == new:
        raise UsageError(
            f"{change.text} changes nothing: no part trains with it.",
            "Set the rate that is in use.",
            code="rate-not-in-use",
        )


def require_same_epoch(changes: Mapping[str, object]) -> None:
    """Refuse a length together with a change of the steps per epoch: the end of the run would be unclear.

    Raises:
        UsageError: `changes` has both.
    """
    from engine.config.change import LENGTH_KEYS

    others = [key for key in _EPOCH_LENGTH if key in changes]
    lengths = [key for key in LENGTH_KEYS if key in changes]
    if others and lengths:
        raise UsageError(
            f"{lengths[0]} and {others[0]} cannot change in one resume: each moves the end of the run.",
            "Resume with one of them, stop, and resume with the other.",
            code="changes-contradict",
        )


def kept_name(run_dir: RunDir, place: Place) -> Path | None:
    """The new name of the last file of a finished run when the run continues: that of its epoch where one ends there,
    else of its step. None where there is no such file, or both names exist, as copies of that step."""
    if not is_regular(run_dir.lora_path()):
        return None
    names = [run_dir.lora_path(step=place.step)]
    if place.updates_per_epoch is not None:
        epoch, inside = divmod(place.step + place.shift, place.updates_per_epoch)
        names[:0] = [] if inside or not 0 < epoch < 10**6 else [run_dir.lora_path(epoch=epoch)]
    return next((name for name in names if not os.path.lexists(name)), None)
