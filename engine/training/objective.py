"""The training objective: noise, timesteps, targets and loss of the DDPM families (formulas: sd-scripts).

All tensors are float32; B images, C latent channels, h x w latent cells. SNR(t) = a / (1 - a) with a the cumulative
product of alphas at t.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from engine.config.training import TrainingTable
from engine.types import PredictionType


class Noise(NamedTuple):
    """The random numbers of a batch; arguments of `Objective.add_noise`."""

    noise: Tensor
    """[B, C, h, w]."""
    timesteps: Tensor
    """[B], from 0 to 1000: int64 for epsilon and v, float32 for flow."""
    perturbed: Tensor | None = None
    """[B, C, h, w]: the noise in the denoiser's input, where it differs from that of the target (`ip_noise_gamma`)."""


@dataclass(frozen=True)
class NoisedBatch:
    """Noised latents with their target."""

    noisy: Tensor
    """[B, C, h, w], the denoiser's input."""
    target: Tensor
    """[B, C, h, w], what it should predict."""
    timesteps: Tensor
    """[B], from 0 to 1000: int64 for epsilon and v, float32 for flow."""


class Objective(ABC):
    """Noise, target and loss for one prediction type."""

    training: TrainingTable

    @abstractmethod
    def sample_noise(self, latents: Tensor, generator: torch.Generator) -> Noise:
        """Noise and timesteps for `latents` [B, C, h, w], all from `generator`, on the CPU as the latents are."""

    @abstractmethod
    def add_noise(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, perturbed: Tensor | None = None
    ) -> NoisedBatch:
        """Noise `latents` with this noise at these timesteps; `perturbed` replaces the noise in the input only."""

    @abstractmethod
    def split(self, prediction: Tensor, noised: NoisedBatch) -> tuple[Tensor, Tensor]:
        """The latents and the noise, [B, C, h, w] each, that `noised` consists of by the model's prediction.
        `add_noise` of both at an earlier timestep is one step of DDIM (Song et al. 2021, formula 12 with σ = 0)."""

    @abstractmethod
    def weights(self, timesteps: Tensor) -> Tensor:
        """Loss weight of each timestep, [B]."""

    @abstractmethod
    def huber_c(self, timesteps: Tensor) -> Tensor:
        """The Huber loss's threshold between quadratic and linear, [B]."""

    def model_output(self, prediction: Tensor, noised: NoisedBatch) -> Tensor:
        """The denoiser's prediction in the target's form, [B, C, h, w]; here it is the same."""
        return prediction

    def losses(self, prediction: Tensor, noised: NoisedBatch, mask: Tensor | None = None) -> Tensor:
        """Weighted loss of each image, [B].

        Args:
            prediction: [B, C, h, w] float32.
            mask: [B, 1, h, w] in 0-1, or None; the mean is over all cells, masked or not, as in Kohya.
        """
        loss = self._distance(self.model_output(prediction, noised), noised)
        if mask is not None:
            loss = loss * mask
        return loss.mean(dim=(1, 2, 3)) * self.weights(noised.timesteps)

    def _distance(self, prediction: Tensor, noised: NoisedBatch) -> Tensor:
        target, kind = noised.target, self.training.loss_type
        if kind == "l2":
            return functional.mse_loss(prediction, target, reduction="none")
        if kind == "l1":
            return functional.l1_loss(prediction, target, reduction="none")
        c = self.huber_c(noised.timesteps).view(-1, 1, 1, 1)
        bow = ((prediction - target).square() + c.square()).sqrt() - c
        return 2 * bow * (c if kind == "huber" else 1)

    def perturbed(self, noise: Tensor, generator: torch.Generator) -> Tensor | None:
        """The noise in the denoiser's input, with `ip_noise_gamma`; None: that of the target."""
        settings = self.training
        if settings.ip_noise_gamma is None:
            return None
        strength = _strength(settings.ip_noise_gamma, settings.ip_noise_gamma_random_strength, generator)
        return noise + strength * torch.randn(noise.shape, generator=generator)


class DiffusionObjective(Objective):
    """Noise and loss of the DDPM families (SD 1.5, SDXL).

    Args:
        training: the `[training]` table.
        alphas_cumprod: [T] float32, on the training device.
        prediction_type: "epsilon" or "v_prediction".
        snr_alphas_cumprod: alphas_cumprod for the SNR of the loss weights; None: the same.
    """

    def __init__(
        self,
        training: TrainingTable,
        alphas_cumprod: Tensor,
        prediction_type: PredictionType,
        snr_alphas_cumprod: Tensor | None = None,
    ) -> None:
        self.training = training
        self.alphas_cumprod = alphas_cumprod
        snr_alphas_cumprod = alphas_cumprod if snr_alphas_cumprod is None else snr_alphas_cumprod
        self.snr = snr_alphas_cumprod / (1 - snr_alphas_cumprod)
        self.is_v = prediction_type == "v_prediction"

    @override
    def sample_noise(self, latents: Tensor, generator: torch.Generator) -> Noise:
        settings = self.training
        noise = self.noise(latents, generator)
        timesteps = torch.randint(settings.min_timestep, settings.max_timestep, (len(latents),), generator=generator)
        return Noise(noise, timesteps, self.perturbed(noise, generator))

    @override
    def add_noise(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, perturbed: Tensor | None = None
    ) -> NoisedBatch:
        alpha = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
        noisy = signal * latents + sigma * (noise if perturbed is None else perturbed)
        target = signal * noise - sigma * latents if self.is_v else noise
        return NoisedBatch(noisy, target, timesteps)

    @override
    def split(self, prediction: Tensor, noised: NoisedBatch) -> tuple[Tensor, Tensor]:
        alpha = self.alphas_cumprod[noised.timesteps].view(-1, 1, 1, 1)
        signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
        if self.is_v:
            return signal * noised.noisy - sigma * prediction, sigma * noised.noisy + signal * prediction
        return (noised.noisy - sigma * prediction) / signal, prediction

    def noise(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Noise like `latents`, with offset or pyramid as configured."""
        settings = self.training
        noise = torch.randn(latents.shape, generator=generator)
        if settings.noise_offset is not None:
            offset: Tensor | float = _strength(settings.noise_offset, settings.noise_offset_random_strength, generator)
            if settings.adaptive_noise_scale is not None:
                mean = latents.mean(dim=(2, 3), keepdim=True).abs()
                offset = (offset + settings.adaptive_noise_scale * mean).clamp_min(0)
            noise = noise + offset * torch.randn((*latents.shape[:2], 1, 1), generator=generator)
        if settings.multires_noise_iterations is not None:
            noise = pyramid(noise, settings.multires_noise_iterations, settings.multires_noise_discount, generator)
        return noise

    def weights(self, timesteps: Tensor) -> Tensor:
        """Loss weight of each timestep, [B]: min-SNR, debiased estimation, v-prediction scalings."""
        settings, snr = self.training, self.snr[timesteps]
        limited_snr = snr.clamp(1e-8, 1000)
        weight = torch.ones_like(snr)
        if settings.min_snr_gamma is not None:
            limited = snr.clamp_max(settings.min_snr_gamma)
            weight = weight * (limited / (snr + 1) if self.is_v else limited / snr.clamp_min(1e-8))
        if settings.scale_v_pred_loss_like_noise_pred:
            weight = weight * limited_snr / (limited_snr + 1)
        if settings.v_pred_like_loss is not None:
            weight = weight * (1 + settings.v_pred_like_loss * (limited_snr + 1) / limited_snr)
        if settings.debiased_estimation_loss:
            weight = weight * (1 / (limited_snr + 1) if self.is_v else limited_snr.rsqrt())
        return weight

    @override
    def huber_c(self, timesteps: Tensor) -> Tensor:
        settings = self.training
        c = settings.huber_c
        if settings.huber_schedule == "exponential":
            base = torch.full((), c, device=timesteps.device)
            return base.pow(timesteps / len(self.snr)) * settings.huber_scale
        if settings.huber_schedule == "snr":
            alpha = self.alphas_cumprod[timesteps]
            sigma = ((1 - alpha) / alpha.clamp_min(1e-12)).sqrt()
            return (1 - c) / (1 + sigma).square() + c
        return torch.full_like(timesteps, c * settings.huber_scale, dtype=torch.float32)


def pyramid(noise: Tensor, iterations: int, discount: float, generator: torch.Generator) -> Tensor:
    """Multi-resolution noise: coarser levels added with falling strength, then scaled to unit variance."""
    height, width = noise.shape[-2:]
    for level in range(iterations):
        ratio = float(torch.rand((), generator=generator)) * 2 + 2
        size = max(1, int(height / ratio**level)), max(1, int(width / ratio**level))
        coarse = torch.randn((*noise.shape[:2], *size), generator=generator)
        noise = noise + functional.interpolate(coarse, (height, width), mode="bilinear") * discount**level
        if 1 in size:
            break
    return noise / noise.std()


def _strength(full: float, random: bool, generator: torch.Generator) -> float:
    return full * float(torch.rand((), generator=generator)) if random else full
