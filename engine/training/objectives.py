"""Which objective a model is trained with."""

from __future__ import annotations

import torch

from engine.config.training import TrainingTable
from engine.models.base import Model
from engine.training.flow import FlowObjective
from engine.training.objective import DiffusionObjective, Objective


def objective_for(training: TrainingTable, model: Model, device: torch.device) -> Objective:
    """Noise and loss by the model's prediction type; its tables go to `device`."""
    if model.prediction_type == "flow":
        return FlowObjective(training)
    table = model.training_alphas_cumprod.to(device)
    # Kohya makes its table of SNR before it rescales the schedule to a zero terminal SNR.
    weighed_by = model.plain_alphas_cumprod.to(device) if training.kohya_exact else None
    return DiffusionObjective(training, table, model.prediction_type, weighed_by)
