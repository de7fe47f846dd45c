"""Rectified flow: linear interpolation to noise, velocity as target, and sampling of sigma (formulas: sd-scripts
`flux_train_utils.py`; Esser et al. 2024, "Scaling Rectified Flow Transformers", sections 3.1 and B.2).

x_σ = (1 - σ) x₀ + σ ε, target ε - x₀; the timestep is σ · 1000. Tensors are float32, σ is in 0-1.

The model's output v is compared with the target directly (model_prediction_type "raw"). For the same numbers as Kohya
there are also "additive", which compares v + x_σ, and "sigma_scaled", which compares an estimate of x₀, x_σ - σ v.
"""

from __future__ import annotations

import math

import torch
from diffusers.training_utils import compute_loss_weighting_for_sd3
from torch import Tensor
from typing_extensions import override

from engine.config.flow import FlowTable
from engine.config.training import TrainingTable
from engine.training.objective import Noise, NoisedBatch, Objective

STEPS = 1000
"""Timesteps of the models' schedule."""


class FlowObjective(Objective):
    """Noise and loss of the flow-matching families (FLUX.1)."""

    def __init__(self, training: TrainingTable, flow: FlowTable) -> None:
        self.training, self.flow = training, flow

    @override
    def sample_noise(self, latents: Tensor, generator: torch.Generator) -> Noise:
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = self.sigmas(latents.shape, generator) * STEPS
        return Noise(noise, timesteps, self.perturbed(noise, generator))

    @override
    def add_noise(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, perturbed: Tensor | None = None
    ) -> NoisedBatch:
        """σ is the timestep / 1000."""
        timesteps = timesteps.to(torch.float32)
        sigma = (timesteps / STEPS).view(-1, 1, 1, 1)
        noisy = (1 - sigma) * latents + sigma * (noise if perturbed is None else perturbed)
        return NoisedBatch(noisy, noise - latents, timesteps)

    @override
    def split(self, prediction: Tensor, noised: NoisedBatch) -> tuple[Tensor, Tensor]:
        sigma = (noised.timesteps / STEPS).view(-1, 1, 1, 1)
        return noised.noisy - sigma * prediction, noised.noisy + (1 - sigma) * prediction

    @override
    def model_output(self, prediction: Tensor, noised: NoisedBatch) -> Tensor:
        """By `model_prediction_type`."""
        kind = self.flow.model_prediction_type
        if kind == "raw":
            return prediction
        if kind == "additive":
            return prediction + noised.noisy
        return noised.noisy - (noised.timesteps / STEPS).view(-1, 1, 1, 1) * prediction

    @override
    def weights(self, timesteps: Tensor) -> Tensor:
        """As in Kohya all are 1, except for sigma_scaled predictions, which use `weighting_scheme`."""
        settings = self.flow
        if settings.model_prediction_type != "sigma_scaled":
            return torch.ones_like(timesteps)
        weights: Tensor = compute_loss_weighting_for_sd3(settings.weighting_scheme, timesteps / STEPS)
        return weights

    @override
    def huber_c(self, timesteps: Tensor) -> Tensor:
        """The schedule "snr" does not apply: flow models have no SNR table."""
        settings = self.training
        assert settings.huber_schedule != "snr", "normalize_config replaces it"
        if settings.huber_schedule == "exponential":
            base = torch.full((), settings.huber_c, device=timesteps.device)
            return base.pow(timesteps / STEPS) * settings.huber_scale
        return torch.full_like(timesteps, settings.huber_c * settings.huber_scale)

    def sigmas(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Sample σ for each image of latents [B, C, h, w], [B]; scaled into min_timestep to max_timestep.

        Kohya ignores the two limits for FLUX.
        """
        settings, training, batch = self.flow, self.training, shape[0]
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
        low, high = training.min_timestep / STEPS, training.max_timestep / STEPS
        return low + (high - low) * sigma

    def _density(self, batch: int, generator: torch.Generator) -> Tensor:
        """Sample positions on the schedule of `timestep_sampling = "sigma"`, [B] in 0-1; 0 is pure noise."""
        settings = self.flow
        if settings.weighting_scheme == "logit_normal":
            normal = torch.randn(batch, generator=generator)
            return torch.sigmoid(settings.logit_mean + settings.logit_std * normal)
        uniform = torch.rand(batch, generator=generator)
        if settings.weighting_scheme == "mode":
            bow = torch.cos(math.pi / 2 * uniform).square() - 1 + uniform
            return (1 - uniform - settings.mode_scale * bow).clamp(0, 1)
        return uniform


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """σ moved towards noise for larger images: shift · σ / (1 + (shift - 1) σ)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def flux_mu(tokens: int) -> float:
    """The logarithm of FLUX's own shift by the image's number of tokens (16 × 16 px): 0.5 at 256, 1.15 at 4096."""
    return 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
