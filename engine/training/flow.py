"""Rectified flow: noise on a straight line, its velocity as target, and how sigma is drawn (formulas: sd-scripts
`flux_train_utils.py`; Esser et al. 2024, "Scaling Rectified Flow Transformers", sections 3.1 and B.2).

x_σ = (1 - σ) x₀ + σ ε, target ε - x₀; the timestep is σ · 1000. Tensors are float32, σ is in 0-1.

The model's answer v is compared with the target as it is (model_prediction_type "raw"). Kohya's other two are kept for
who wants the same numbers: "additive" compares v + x_σ, and "sigma_scaled", an estimate of x₀, x_σ - σ v.
"""

from __future__ import annotations

import math

import torch
from diffusers.training_utils import compute_loss_weighting_for_sd3
from torch import Tensor

from engine.config.training import TrainingTable
from engine.training.objective import Objective, Question

STEPS = 1000
"""Timesteps of the models' schedule."""


class FlowObjective(Objective):
    """Noise and loss of the flow-matching families (FLUX.1)."""

    def __init__(self, training: TrainingTable) -> None:
        self.training = training

    def ask(self, latents: Tensor, generator: torch.Generator) -> Question:
        """See `Objective.ask`."""
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        timesteps = (self.sigmas(latents.shape, generator) * STEPS).to(latents.device)
        return self.noised(latents, noise, timesteps, self.perturbed(noise, generator))

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor, perturbed: Tensor | None = None) -> Question:
        """See `Objective.noised`; σ is timestep / 1000."""
        timesteps = timesteps.to(torch.float32)
        sigma = (timesteps / STEPS).view(-1, 1, 1, 1)
        noisy = (1 - sigma) * latents + sigma * (noise if perturbed is None else perturbed)
        return Question(noisy, noise - latents, timesteps)

    def compared(self, prediction: Tensor, question: Question) -> Tensor:
        """See `Objective.compared`; by `model_prediction_type`."""
        kind = self.training.model_prediction_type
        if kind == "raw":
            return prediction
        if kind == "additive":
            return prediction + question.noisy
        return question.noisy - (question.timesteps / STEPS).view(-1, 1, 1, 1) * prediction

    def weights(self, timesteps: Tensor) -> Tensor:
        """See `Objective.weights`: all alike, as Kohya has it; `weighting_scheme` weighs sigma_scaled predictions."""
        settings = self.training
        if settings.model_prediction_type != "sigma_scaled":
            return torch.ones_like(timesteps)
        weights: Tensor = compute_loss_weighting_for_sd3(settings.weighting_scheme, timesteps / STEPS)
        return weights

    def huber_c(self, timesteps: Tensor) -> Tensor:
        """See `Objective.huber_c`; there is no SNR table that the schedule "snr" could read."""
        settings = self.training
        assert settings.huber_schedule != "snr", "the family has chosen another schedule"
        if settings.huber_schedule == "exponential":
            return torch.tensor(settings.huber_c, device=timesteps.device).pow(timesteps / STEPS) * settings.huber_scale
        return torch.full_like(timesteps, settings.huber_c * settings.huber_scale)

    def sigmas(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """σ of each picture of latents [B, C, h, w], [B]; squeezed into min_timestep to max_timestep.

        Kohya ignores the two limits for FLUX.
        """
        settings, batch = self.training, shape[0]
        kind = settings.timestep_sampling
        if kind == "uniform":
            sigma = torch.rand(batch, generator=generator)
        elif kind == "sigma":
            density = self._density(batch, generator)
            steps = (density * STEPS).long().clamp_max(STEPS - 1)
            sigma = shifted(1 - steps / STEPS, settings.discrete_flow_shift)
        else:
            sigma = torch.sigmoid(settings.sigmoid_scale * torch.randn(batch, generator=generator))
            if kind == "shift":
                sigma = shifted(sigma, settings.discrete_flow_shift)
            elif kind == "flux_shift":
                sigma = shifted(sigma, math.exp(flux_mu(shape[-2] // 2 * (shape[-1] // 2))))
        low, high = settings.min_timestep / STEPS, settings.max_timestep / STEPS
        return low + (high - low) * sigma

    def _density(self, batch: int, generator: torch.Generator) -> Tensor:
        """Where on the schedule of `timestep_sampling = "sigma"`, [B] in 0-1; 0 is pure noise."""
        settings = self.training
        if settings.weighting_scheme == "logit_normal":
            normal = torch.randn(batch, generator=generator)
            return torch.sigmoid(settings.logit_mean + settings.logit_std * normal)
        uniform = torch.rand(batch, generator=generator)
        if settings.weighting_scheme == "mode":
            bow = torch.cos(math.pi / 2 * uniform).square() - 1 + uniform
            return (1 - uniform - settings.mode_scale * bow).clamp(0, 1)
        return uniform


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """σ moved towards noise for larger pictures: shift · σ / (1 + (shift - 1) σ)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def flux_mu(tokens: int) -> float:
    """The logarithm of FLUX's own shift for a picture of so many tokens of 16 × 16 px: 0.5 at 256, 1.15 at 4096."""
    return 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
