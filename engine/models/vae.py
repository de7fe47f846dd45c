"""What the VAE of a model makes of images."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def posterior(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [B, C, h, w] float32 of the latents of images [B, 3, H, W], not yet scaled; the log
    of the variance is limited as in diffusers' `DiagonalGaussianDistribution`."""
    weight = next(vae.parameters())
    moments: Tensor = vae.encode(pixels.to(weight.device, weight.dtype)).latent_dist.parameters
    mean, log_variance = moments.float().chunk(2, dim=1)
    return mean, (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
