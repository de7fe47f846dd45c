"""Drawing a picture with the current weights: Kohya's sampler names on diffusers' schedulers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from torch import Tensor

from engine.errors import UsageError
from engine.models.base import SampleRequest

if TYPE_CHECKING:
    from engine.models.ldm.model import LatentDiffusionModel

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
"""Kohya's sampler names; with k_ in front they mean the same."""

SMALLEST_ALPHA = 2.0**-24
"""Stands for the 0 that zero terminal SNR ends in: samplers divide by it (diffusers' Euler does the same)."""


def make_scheduler(name: str, config: dict[str, Any], alphas_cumprod: torch.Tensor) -> Any:
    """The scheduler for a sampler name on the schedule that the training uses.

    Latents are never clipped to [-1, 1]: that is meant for pixels. (Kohya clips them in ddim.)

    Args:
        config: the checkpoint's scheduler configuration, with prediction_type and rescale_betas_zero_snr as in the run.
        alphas_cumprod: [T] float32 of the training.

    Raises:
        UsageError: unknown name.
    """
    found = SCHEDULERS.get(name.removeprefix("k_"))
    if found is None:
        raise UsageError(f"There is no sampler {name}.", f"Samplers: {', '.join(SCHEDULERS)}.")
    class_name, settings = found
    scheduler_class = getattr(diffusers, class_name)
    known = inspect.signature(scheduler_class.__init__).parameters
    zero_snr = bool(config.get("rescale_betas_zero_snr"))
    asked = {**config, "clip_sample": False, **settings}
    if zero_snr:
        asked["timestep_spacing"] = "trailing"
    kept = {key: value for key, value in asked.items() if key in known and key != "rescale_betas_zero_snr"}
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


def texts(model: LatentDiffusionModel, request: SampleRequest) -> list[Mapping[str, Tensor]]:
    """What `predict` needs of the prompt, and before it of the negative prompt where guidance is on; one each."""
    return model.texts_of([request.negative_prompt, request.prompt] if request.scale > 1.0 else [request.prompt])


def latents(
    model: LatentDiffusionModel,
    request: SampleRequest,
    texts: Sequence[Mapping[str, Tensor]],
    *,
    one_by_one: bool = False,
) -> Tensor:
    """Latents [1, C, h, w] of a picture: classifier-free guidance, and noise from a generator of its own on the CPU, so
    that a seed gives the same picture on every device (to rounding).

    Args:
        texts: of `texts`.
        one_by_one: ask the denoiser for each of them alone.

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
    found: Tensor = torch.randn(shape, generator=generator).to(model.device) * scheduler.init_noise_sigma
    asked = texts if one_by_one else [{name: torch.cat([text[name] for text in texts]) for name in texts[0]}]
    for timestep in scheduler.timesteps:
        answers = []
        for text in asked:
            count = len(next(iter(text.values())))
            sizes = torch.tensor([[height, width, 0, 0, height, width]] * count, dtype=torch.float32)
            inputs = scheduler.scale_model_input(torch.cat([found] * count), timestep)
            answers.append(model.predict(inputs, timestep.expand(count), text, sizes))
        output = torch.cat(answers)
        if len(texts) == 2:
            unconditional, conditional = output.chunk(2)
            output = unconditional + request.scale * (conditional - unconditional)
        found = scheduler.step(output, timestep, found, **extra).prev_sample
    return found
