"""Learning-rate schedules by Kohya's names, through transformers and diffusers."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.optimization import get_piecewise_constant_schedule
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers.optimization import get_scheduler

from engine.config.optimizers import check_training, schedule_settings, sets_its_own_rate, step_rules
from engine.config.rate_shape import decay_steps, steps_of
from engine.config.training import TrainingTable, is_schedule_free
from engine.errors import UsageError
from engine.training.optimizers import BuiltOptimizer


def build_schedule(training: TrainingTable, built: BuiltOptimizer, max_train_steps: int) -> LRScheduler | None:
    """The schedule, to be stepped `steps_per_update` times after every update; None if the optimizer sets its own rate.

    Raises:
        UsageError: the schedule lacks a setting that it needs, or has one that it does not know.
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
    optimizer.defaults["lr"] = training.learning_rate  # polynomial's lr_end is a share of it, as in Kohya
    try:
        return get_scheduler(  # type: ignore[no-any-return]
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
            f"training.lr_scheduler_args: {name} does not take these settings: {error}.",
            "Leave them out.",
            code="scheduler-args-wrong",
        ) from None


def _own_settings(training: TrainingTable, max_train_steps: int) -> dict[str, Any]:
    """The schedule's arguments from configuration keys of their own; `lr_scheduler_args` take precedence."""
    lowest = training.lr_scheduler_min_lr_ratio or 0.0
    waves = training.lr_scheduler_num_cycles / 2
    settings: dict[str, dict[str, Any]] = {
        "cosine_with_restarts": {"num_cycles": training.lr_scheduler_num_cycles},
        "polynomial": {"power": training.lr_scheduler_power},
        "inverse_sqrt": {"timescale": training.lr_scheduler_timescale},
        "cosine_with_min_lr": {"min_lr_rate": lowest, "num_cycles": waves},
        "warmup_stable_decay": {
            "num_cycles": waves,
            "num_decay_steps": decay_steps(training, max_train_steps),
            "min_lr_ratio": lowest,
        },
    }
    chosen = settings.get(training.lr_scheduler, {})
    if schedule_settings(training).get("min_lr") is not None:
        chosen.pop("min_lr_rate", None)
    return chosen


def steps_per_update(training: TrainingTable) -> int:
    """How often the schedule is stepped after each update, and how many times longer it is: 1; with kohya_exact the
    number of processes, as with accelerate, so that a warm-up in steps takes fewer updates."""
    return training.processes if training.kohya_exact else 1


def check_schedule(training: TrainingTable) -> None:
    """Raise UsageError for settings that the schedule does not take."""
    check_training(training)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name, arguments = training.optimizer_type, training.optimizer_args
    free, relative = is_schedule_free(name), sets_its_own_rate(name, arguments)
    build_schedule(training, BuiltOptimizer(optimizer, "", free, relative), 100)


def stretch(schedule: LRScheduler, training: TrainingTable, max_train_steps: int) -> None:
    """Change a schedule's shape to that of a run of another length; its groups' rates change at the next step, or by
    `set_rates`.

    Args:
        training: the settings that the schedule was built with.
        max_train_steps: as for `build_schedule`.
    """
    if not isinstance(schedule, LambdaLR):
        return
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate or 1.0} for rate in schedule.base_lrs]
    free, relative = is_schedule_free(training.optimizer_type), False
    built = BuiltOptimizer(torch.optim.SGD(groups, lr=training.learning_rate), "", free, relative)
    fresh = build_schedule(training, built, max_train_steps)
    assert isinstance(fresh, LambdaLR)
    schedule.lr_lambdas = fresh.lr_lambdas


def set_rates(schedule: LRScheduler) -> None:
    """Set each group's rate to the schedule's value for the current step."""
    if not isinstance(schedule, LambdaLR):
        return
    shapes = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
    for group, base, shape in shapes:
        group["lr"] = base * shape(schedule.last_epoch)
    schedule._last_lr = [group["lr"] for group in schedule.optimizer.param_groups]
