"""The factor on the learning rate at a step, computed without torch: for figures before anything is loaded.

The trainer uses the schedules of transformers and diffusers; a test compares both for every schedule.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from engine.config.optimizers import schedule_settings, sets_its_own_rate, step_rules
from engine.config.training import is_schedule_free

if TYPE_CHECKING:
    from engine.config.training import TrainingTable


def is_constant(training: TrainingTable) -> bool:
    """Whether no schedule changes the rate: it is constant, or the optimizer sets its own rate."""
    name, arguments = training.optimizer_type, training.optimizer_args
    if training.lr_scheduler == "constant" or is_schedule_free(name):
        return True
    return training.lr_scheduler == "adafactor" or sets_its_own_rate(name, arguments)


def share(training: TrainingTable, step: int, length: int) -> float:
    """The factor on the learning rate in the update that follows `step` updates.

    Args:
        length: of the complete run, in updates.

    Raises:
        UsageError: `lr_scheduler_args` are wrong.
    """
    if is_constant(training):
        return 1.0
    factor = training.processes if training.kohya_exact else 1
    return _share(training, step * factor, length * factor)


def _share(training: TrainingTable, step: int, length: int) -> float:
    name, own = training.lr_scheduler, schedule_settings(training)
    if name == "piecewise_constant":
        return _piecewise(step_rules(own), step)
    warmup = steps_of(training.lr_warmup_steps, length)
    if name == "warmup_stable_decay":
        return _stable_then_decay(training, own, step, length, warmup)
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, length - warmup)
    if name == "linear":
        return max(0.0, (length - step) / max(1, length - warmup))
    if name == "cosine":
        return max(0.0, _wave(own.get("num_cycles", 0.5), progress))
    if name == "cosine_with_restarts":
        cycles = own.get("num_cycles", training.lr_scheduler_num_cycles)
        return 0.0 if progress >= 1 else max(0.0, 0.5 * (1 + math.cos(math.pi * (cycles * progress % 1.0))))
    if name == "polynomial":
        end = own.get("lr_end", 1e-7) / training.learning_rate
        if step > length:
            return float(end)
        power = own.get("power", training.lr_scheduler_power)
        return float((1 - end) * (1 - (step - warmup) / max(1, length - warmup)) ** power + end)
    if name == "inverse_sqrt":
        scale = own.get("timescale", training.lr_scheduler_timescale) or warmup or 10_000
        return 1.0 / math.sqrt((step + scale - warmup) / scale)
    if name == "cosine_with_min_lr":
        lowest = own.get("min_lr_rate", training.lr_scheduler_min_lr_ratio or 0.0)
        if own.get("min_lr") is not None:
            lowest = own["min_lr"] / training.learning_rate
        wave = _wave(own.get("num_cycles", training.lr_scheduler_num_cycles / 2), progress)
        return float(max(0.0, wave * (1 - lowest) + lowest))
    return 1.0  # constant_with_warmup


def _wave(cycles: float, progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * cycles * 2 * progress))


def _piecewise(rules: str, step: int) -> float:
    *pairs, last = rules.split(",")
    limits = sorted((int(pair.split(":")[1]), float(pair.split(":")[0])) for pair in pairs)
    return next((factor for limit, factor in limits if step < limit), float(last))


def _stable_then_decay(training: TrainingTable, own: dict[str, Any], step: int, length: int, warmup: int) -> float:
    lowest = own.get("min_lr_ratio", training.lr_scheduler_min_lr_ratio or 0.0)
    decay = own.get("num_decay_steps", decay_steps(training, length))
    stable = own.get("num_stable_steps")
    stable = length - warmup - decay if stable is None else stable
    if step < warmup:
        progress = step / max(1, warmup)
        kinds = {"linear": progress, "cosine": 0.5 * (1 - math.cos(math.pi * progress))}
        rising = kinds.get(own.get("warmup_type", "linear"), 1 - math.sqrt(1 - progress))
        return float(max(0.0, rising * (1 - lowest) + lowest))
    if step < warmup + stable:
        return 1.0
    if step >= warmup + stable + decay:
        return float(lowest)
    progress = (step - warmup - stable) / max(1, decay)
    waves = own.get("num_cycles", training.lr_scheduler_num_cycles / 2)
    kinds = {"linear": 1 - progress, "cosine": _wave(waves, progress)}
    falling = kinds.get(own.get("decay_type", "cosine"), 1 - math.sqrt(progress))
    return float(max(0.0, falling * (1 - lowest) + lowest))


def decay_steps(training: TrainingTable, length: int) -> int:
    """Steps of the decay of warmup_stable_decay without `lr_scheduler_args`: a tenth of all, with kohya_exact none."""
    return steps_of(training.lr_decay_steps, length) or (0 if training.kohya_exact else length // 10)


def steps_of(value: float, max_train_steps: int) -> int:
    """A number of steps: below 1 a share of all steps, as Kohya."""
    return int(value * max_train_steps) if value < 1 else int(value)
