"""The rate without torch is that of the trainer's schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.config import RunConfig
from engine.config.rate_shape import is_constant, share
from engine.training.optimizers import BuiltOptimizer
from engine.training.schedules import build_schedule, set_rates, steps_per_update, stretch

SCHEDULES: list[dict[str, Any]] = [
    {"lr_scheduler": "constant"},
    {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 7},
    {"lr_scheduler": "linear", "lr_warmup_steps": 0.1},
    {"lr_scheduler": "cosine"},
    {"lr_scheduler": "cosine", "lr_warmup_steps": 5, "lr_scheduler_args": ["num_cycles=1.5"]},
    {"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3},
    {"lr_scheduler": "polynomial", "lr_scheduler_power": 2, "lr_warmup_steps": 4},
    {"lr_scheduler": "polynomial", "lr_scheduler_args": ["lr_end=1e-5"]},
    {"lr_scheduler": "inverse_sqrt", "lr_warmup_steps": 6, "lr_scheduler_timescale": 9},
    {"lr_scheduler": "inverse_sqrt"},
    {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_min_lr_ratio": 0.1},
    {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_args": ["min_lr=2e-5"]},
    {"lr_scheduler": "warmup_stable_decay", "lr_warmup_steps": 5, "lr_decay_steps": 0.3},
    {
        "lr_scheduler": "warmup_stable_decay", "lr_warmup_steps": 5, "lr_scheduler_min_lr_ratio": 0.2,
        "lr_scheduler_args": ["decay_type=1-sqrt", "warmup_type=cosine", "num_stable_steps=10"],
    },
    {"lr_scheduler": "piecewise_constant", "lr_scheduler_args": ["step_rules=1:10,0.1:20,0.01"]},
    {"lr_scheduler": "linear", "kohya_exact": True, "num_processes": 2, "lr_warmup_steps": 8},
    {"lr_scheduler": "cosine", "optimizer_type": "AdamWScheduleFree"},
]  # fmt: skip


def schedule_of(settings: dict[str, Any], length: int) -> tuple[Any, Any]:
    training = RunConfig().changed(training=settings).training
    group = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 3e-4}
    optimizer = torch.optim.SGD([group], lr=training.learning_rate)
    free = training.optimizer_type.endswith("ScheduleFree")
    return training, build_schedule(training, BuiltOptimizer(optimizer, "", free, False), length)


def rates(schedule: Any, updates: int, each: int = 1) -> list[float]:
    rates = []
    for _ in range(updates):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        for _ in range(each):
            schedule.step()
    return rates


@pytest.mark.parametrize("settings", SCHEDULES, ids=str)
def test_the_share_is_the_schedules(settings: dict[str, Any]) -> None:
    each = 2 if settings.get("kohya_exact") else 1
    training, schedule = schedule_of(settings, 40 * each)
    assert steps_per_update(training) == each
    assert [share(training, step, 40) * 3e-4 for step in range(40)] == pytest.approx(
        rates(schedule, 40, each), rel=1e-9
    )
    assert is_constant(training) == (len(set(rates(schedule_of(settings, 40 * each)[1], 40, each))) == 1)


@pytest.mark.parametrize("settings", SCHEDULES[:-2], ids=str)
def test_a_stretched_schedule_is_that_of_the_other_length(settings: dict[str, Any]) -> None:
    training, schedule = schedule_of(settings, 20)
    before = rates(schedule, 20)
    stretch(schedule, training, 40)
    set_rates(schedule)
    straight = rates(schedule_of(settings, 40)[1], 40)
    assert rates(schedule, 20) == straight[20:], "to the last bit"
    assert len(before) == 20


def test_an_optimizer_with_its_own_rate_has_no_schedule() -> None:
    training = RunConfig().changed(training={"lr_scheduler": "cosine", "optimizer_type": "Adafactor"}).training
    assert is_constant(training) and share(training, 30, 40) == 1.0
