"""Learning-rate schedules by Kohya's names, through transformers and diffusers."""

from __future__ import annotations

from typing import Any

from diffusers.optimization import get_piecewise_constant_schedule
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers.optimization import get_scheduler

from engine.config.optimizers import step_rules
from engine.config.training import TrainingTable
from engine.training.optimizers import BuiltOptimizer


def build_schedule(training: TrainingTable, built: BuiltOptimizer, max_train_steps: int) -> LRScheduler | None:
    """The schedule that is stepped once after every optimizer update; None where the optimizer sets its own rate.

    Raises:
        UsageError: a schedule lacks a setting that it needs.
    """
    optimizer = built.optimizer
    name = training.lr_scheduler
    if built.relative_step:
        return None
    if built.schedule_free or name == "constant":
        return LambdaLR(optimizer, lambda _: 1.0)
    if name == "piecewise_constant":
        schedule: LRScheduler = get_piecewise_constant_schedule(optimizer, step_rules(training))
        return schedule
    warmup = steps_of(training.lr_warmup_steps, max_train_steps)
    settings: dict[str, dict[str, Any]] = {
        "cosine_with_restarts": {"num_cycles": training.lr_scheduler_num_cycles},
        "polynomial": {"power": training.lr_scheduler_power},
        "inverse_sqrt": {"timescale": training.lr_scheduler_timescale},
        "cosine_with_min_lr": {"min_lr_rate": training.lr_scheduler_min_lr_ratio or 0.0},
        "warmup_stable_decay": {
            "num_decay_steps": steps_of(training.lr_decay_steps, max_train_steps)
            or (0 if training.kohya_exact else max_train_steps // 10),
            "min_lr_ratio": training.lr_scheduler_min_lr_ratio or 0.0,
        },
    }
    result: LRScheduler = get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=max_train_steps,
        scheduler_specific_kwargs=settings.get(name, {}),
    )
    return result


def steps_of(value: float, max_train_steps: int) -> int:
    """A number of steps: below 1 a share of all steps, as Kohya."""
    return int(value * max_train_steps) if value < 1 else int(value)
