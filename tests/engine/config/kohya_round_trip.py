"""Compares a run with what is read back from its export."""

from __future__ import annotations

from typing import Any

from engine.config import RunConfig
from engine.config.optimizers import optimizer_settings, schedule_settings, sets_its_own_rate
from engine.config.training import TrainingTable, is_schedule_free
from engine.training.schedules import _own_settings

ELSEWHERE = {
    "saving.output_dir", "dataset.train_data_dir", "dataset.dataset_config", "dataset.class_tokens",
    "dataset.num_repeats", "dataset.conditioning_data_dir", "sampling.sample_prompts", "sampling.sample_scale",
    "sampling.sample_steps", "flux.sample_guidance", "sampling.sample_seed", "memory.mixed_precision",
    "training.train_batch_size", "model.family", "memory.num_cpu_threads_per_process",
    "memory.device",
}  # fmt: skip
"""What the other files have, the launcher, or the choice of the script."""
_SCHEDULE = ("lr_decay_steps", "lr_scheduler_num_cycles", "lr_scheduler_power", "lr_scheduler_timescale",
             "lr_scheduler_min_lr_ratio")  # fmt: skip


def differences(before: RunConfig, after: RunConfig) -> list[str]:
    """The settings that came back with another meaning, except those of the images."""
    old, new = before.model_dump(), after.model_dump()
    for config, values in ((before, old), (after, new)):
        training = config.training
        values["network"]["algo"] = "lora" if config.network.algo == "locon" else config.network.algo
        if config.network.algo == "ia3":  # without a preset it is that of its name
            values["network"]["preset"] = config.network.preset or "ia3"
        values["training"]["optimizer_args"] = optimizer_settings(training.optimizer_type, training.optimizer_args)
        if not sets_its_own_rate(training.optimizer_type, training.optimizer_args):
            values["training"]["lr_scheduler_args"] = _scheduled(training)
            for key in _SCHEDULE:
                values["training"].pop(key)
        if training.lr_warmup_steps >= 1:
            values["training"]["lr_warmup_steps"] = int(training.lr_warmup_steps)
        if config.sampling.sample_every_n_epochs is not None:
            values["sampling"].pop("sample_every_n_steps")
        if training.max_train_epochs is not None:
            values["training"].pop("max_train_steps")
    return [f"{table}.{key}" for table, keys in old.items() if table != "dataset" for key in keys
            if keys[key] != new[table].get(key) and f"{table}.{key}" not in ELSEWHERE]  # fmt: skip


def _scheduled(training: TrainingTable) -> dict[str, Any]:
    """What the schedule is built with, whichever setting says it."""
    if training.lr_scheduler == "constant" or is_schedule_free(training.optimizer_type):
        return {}
    settings = {**_own_settings(training, 1000), **schedule_settings(training)}
    return {key: value for key, value in settings.items() if value is not None}
