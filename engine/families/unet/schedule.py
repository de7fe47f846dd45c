"""The noise schedule of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler

from engine.models.configs import SCHEDULER, read_config
from engine.types import Recognition


def scheduler_config(recognition: Recognition, shipped: Path) -> dict[str, Any]:
    """The noise schedule: the folder's, or that of the family (`shipped`)."""
    folder = recognition.path if recognition.layout == "diffusers" else shipped
    return read_config(folder / "scheduler" / "scheduler_config.json", SCHEDULER)


def alphas_cumprod(schedule: dict[str, Any]) -> torch.Tensor:
    """The cumulative products of 1 - beta, [T] float32; the last is 0 with zero terminal SNR (Lin et al. 2023)."""
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
    scheduler_class: Any = DDPMScheduler
    scheduler = scheduler_class(**{key: schedule[key] for key in keys if key in schedule})
    products: torch.Tensor = scheduler.alphas_cumprod.float()
    return products
