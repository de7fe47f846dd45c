"""Generates an image with the current weights: Kohya's sampler names on diffusers' schedulers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import diffusers
import torch
from torch import Tensor

from engine.errors import UsageError
from engine.types import SampleRequest


class SamplingModel(Protocol):
    """What sampling needs of a model: see `engine.families.base.Model`."""

    device: torch.device
    latent_channels: int
    downscale: int
    minimum_size: int
    """Pixels of the smallest side."""
    scheduler_config: dict[str, Any]
    """Of the checkpoint, with the prediction type of the run."""
    training_alphas_cumprod: Tensor

    def texts_of(self, prompts: Sequence[str]) -> list[Mapping[str, Tensor]]:
        """The text inputs of `predict` for each prompt, [1, ...] each."""

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """The denoiser's output [B, C, h, w] float32."""


SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmsolver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmsingle": ("DPMSolverSinglestepScheduler", {"lower_order_final": True}),
}
"""Kohya's sampler names; a prefix k_ is ignored."""

SMALLEST_ALPHA = 2.0**-24
"""Replaces the 0 at the end of a zero terminal SNR schedule: samplers divide by it (as in diffusers' Euler)."""


def make_scheduler(name: str, config: dict[str, Any], alphas_cumprod: torch.Tensor) -> Any:
    """The scheduler for a sampler name on the schedule that the training uses.

    Latents are never clipped to [-1, 1]: that is meant for pixels. (Kohya clips them in ddim.)

    Args:
        config: the checkpoint's scheduler configuration, with prediction_type and rescale_betas_zero_snr as in the run.
        alphas_cumprod: [T] float32 of the training.

    Raises:
        UsageError: unknown name.
    """
    sampler = SCHEDULERS.get(name.removeprefix("k_"))
    if sampler is None:
        raise UsageError(f"There is no sampler {name}.", f"Samplers: {', '.join(SCHEDULERS)}.", code="no-such-sampler")
    class_name, settings = sampler
    scheduler_class = getattr(diffusers, class_name)
    parameters = inspect.signature(scheduler_class.__init__).parameters
    zero_snr = bool(config.get("rescale_betas_zero_snr"))
    settings = {**config, "clip_sample": False, **settings}
    if zero_snr:
        settings["timestep_spacing"] = "trailing"
    kept = {key: value for key, value in settings.items() if key in parameters and key != "rescale_betas_zero_snr"}
    scheduler = scheduler_class(**kept)
    if zero_snr:
        scheduler.alphas_cumprod = alphas_cumprod.clamp(min=SMALLEST_ALPHA)
    return scheduler


def fit_size(width: int, height: int, multiple: int, minimum: int) -> tuple[int, int]:
    """Sides rounded down to a multiple of `multiple` px, at least `minimum` px."""
    return (
        max(width - width % multiple, minimum),
        max(height - height % multiple, minimum),
    )


def texts(model: SamplingModel, request: SampleRequest) -> list[Mapping[str, Tensor]]:
    """The text inputs of `predict` for the prompt; with guidance, those of the negative prompt come first."""
    return model.texts_of([request.negative_prompt, request.prompt] if request.scale > 1.0 else [request.prompt])


def latents(
    model: SamplingModel,
    request: SampleRequest,
    texts: Sequence[Mapping[str, Tensor]],
    *,
    separately: bool = False,
) -> Tensor:
    """Sample latents [1, C, h, w]: classifier-free guidance, and noise from a generator of its own on the CPU, so
    that a seed gives the same image on every device (to rounding).

    Args:
        texts: of `texts`.
        separately: a separate pass of the denoiser for each of them.

    Raises:
        UsageError: unknown sampler.
    """
    width, height = fit_size(request.width, request.height, max(8, model.downscale), model.minimum_size)
    scheduler = make_scheduler(request.sampler, model.scheduler_config, model.training_alphas_cumprod)
    most = len(model.training_alphas_cumprod) - int(scheduler.config.get("steps_offset", 0))
    scheduler.set_timesteps(min(request.steps, most), device=model.device)
    generator = torch.Generator("cpu").manual_seed(request.seed)
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    shape = (1, model.latent_channels, height // model.downscale, width // model.downscale)
    latents: Tensor = torch.randn(shape, generator=generator).to(model.device) * scheduler.init_noise_sigma
    conditions = texts if separately else [{name: torch.cat([text[name] for text in texts]) for name in texts[0]}]
    for timestep in scheduler.timesteps:
        predictions = []
        for text in conditions:
            count = len(next(iter(text.values())))
            sizes = torch.tensor([[height, width, 0, 0, height, width]] * count, dtype=torch.float32)
            inputs = scheduler.scale_model_input(torch.cat([latents] * count), timestep)
            predictions.append(model.predict(inputs, timestep.expand(count), text, sizes))
        output = torch.cat(predictions)
        if len(texts) == 2:
            unconditional, conditional = output.chunk(2)
            output = unconditional + request.scale * (conditional - unconditional)
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
    return latents
