"""Learning-rate schedules by Kohya's names, through transformers and diffusers."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.optimization import get_piecewise_constant_schedule
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers.optimization import get_scheduler

from engine.config.optimizers import check_training, is_schedule_free, schedule_settings, sets_its_own_rate, step_rules
from engine.config.training import TrainingTable
from engine.errors import UsageError
from engine.training.optimizers import BuiltOptimizer


def build_schedule(training: TrainingTable, built: BuiltOptimizer, max_train_steps: int) -> LRScheduler | None:
    """The schedule that is stepped after every update, `steps_per_update` times; None where the optimizer sets its own
    rate.

    Raises:
        UsageError: a schedule lacks a setting that it needs, or is given one that it does not know.
    """
    optimizer = built.optimizer
    name = training.lr_scheduler
    if built.relative_step:
        return None
    if built.schedule_free or name == "constant":
        return LambdaLR(optimizer, lambda _: 1.0)
    if name == "piecewise_constant":
        rules = step_rules(schedule_settings(training))
        schedule: LRScheduler = get_piecewise_constant_schedule(optimizer, rules)
        return schedule
    warmup = steps_of(training.lr_warmup_steps, max_train_steps)
    optimizer.defaults["lr"] = training.learning_rate  # what polynomial's lr_end is a share of, as in Kohya
    try:
        result: LRScheduler = get_scheduler(
            name,
            optimizer,
            num_warmup_steps=warmup,
            num_training_steps=max_train_steps,
            scheduler_specific_kwargs=_own_settings(training, max_train_steps) | schedule_settings(training),
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"training.lr_scheduler_args: {name} does not take these settings: {error}.", "Leave them out."
        ) from None
    return result


def _own_settings(training: TrainingTable, max_train_steps: int) -> dict[str, Any]:
    """What the schedule takes from keys of its own; `lr_scheduler_args` go before it."""
    lowest = training.lr_scheduler_min_lr_ratio or 0.0
    waves = training.lr_scheduler_num_cycles / 2
    settings: dict[str, dict[str, Any]] = {
        "cosine_with_restarts": {"num_cycles": training.lr_scheduler_num_cycles},
        "polynomial": {"power": training.lr_scheduler_power},
        "inverse_sqrt": {"timescale": training.lr_scheduler_timescale},
        "cosine_with_min_lr": {"min_lr_rate": lowest, "num_cycles": waves},
        "warmup_stable_decay": {
            "num_cycles": waves,
            "num_decay_steps": steps_of(training.lr_decay_steps, max_train_steps)
            or (0 if training.kohya_exact else max_train_steps // 10),
            "min_lr_ratio": lowest,
        },
    }
    chosen = settings.get(training.lr_scheduler, {})
    if schedule_settings(training).get("min_lr") is not None:
        chosen.pop("min_lr_rate", None)
    return chosen


def steps_per_update(training: TrainingTable) -> int:
    """How often the schedule is stepped for each update, and how many times longer it is: once; with kohya_exact once
    for each process, as accelerate does it, so that a warm-up in steps takes fewer updates."""
    return training.num_processes if training.kohya_exact else 1


def check_schedule(training: TrainingTable) -> None:
    """Raise UsageError for settings that the schedule does not take, before anything is loaded."""
    check_training(training)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name, arguments = training.optimizer_type, training.optimizer_args
    free, relative = is_schedule_free(name), sets_its_own_rate(name, arguments)
    build_schedule(training, BuiltOptimizer(optimizer, "", free, relative), 100)


def steps_of(value: float, max_train_steps: int) -> int:
    """A number of steps: below 1 a share of all steps, as Kohya."""
    return int(value * max_train_steps) if value < 1 else int(value)
