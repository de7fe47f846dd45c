"""Drawing a picture with the current weights: Euler's method on FLUX's own schedule (diffusers' FluxPipeline)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from engine.models.base import SampleRequest

if TYPE_CHECKING:
    from engine.models.flux.model import FluxModel


def prompts(request: SampleRequest) -> list[str]:
    """The texts that a picture needs: with classifier-free guidance also the negative prompt, first."""
    return [request.negative_prompt, request.prompt] if request.scale > 1.0 else [request.prompt]


def make_scheduler(config: dict[str, Any], steps: int, tokens: int, device: torch.device) -> Any:
    """The scheduler, set to `steps` from pure noise to the picture; where the schedule moves with the size of the
    picture, by its number of 16 × 16 px patches."""
    scheduler_class: Any = FlowMatchEulerDiscreteScheduler
    scheduler = scheduler_class.from_config(config)
    slope = (config["max_shift"] - config["base_shift"]) / (config["max_image_seq_len"] - config["base_image_seq_len"])
    mu = config["base_shift"] + slope * (tokens - config["base_image_seq_len"])
    sigmas = [1.0 - step / steps for step in range(steps)]
    scheduler.set_timesteps(sigmas=sigmas, device=device, **({"mu": mu} if config["use_dynamic_shifting"] else {}))
    return scheduler


def latents(model: FluxModel, request: SampleRequest) -> Tensor:
    """Latents [1, C, h, w] of a picture: the distilled guidance of the request, and classifier-free guidance above a
    scale of 1; noise from a generator of its own on the CPU, so that a seed gives the same picture on every device (to
    rounding)."""
    grain = 2 * model.downscale
    width, height = (max(side - side % grain, 4 * grain) for side in (request.width, request.height))
    texts = [model.recalled(prompt) for prompt in prompts(request)]
    shape = (1, model.latent_channels, height // model.downscale, width // model.downscale)
    tokens = shape[2] // 2 * (shape[3] // 2)
    scheduler = make_scheduler(model.scheduler_config, request.steps, tokens, model.device)
    generator = torch.Generator("cpu").manual_seed(request.seed)
    found: Tensor = torch.randn(shape, generator=generator).to(model.device)
    for timestep in scheduler.timesteps:
        outputs = [model.velocity(found, timestep.expand(1), text, request.guidance) for text in texts]
        output = outputs[-1]
        if len(outputs) == 2:
            output = outputs[0] + request.scale * (outputs[1] - outputs[0])
        found = scheduler.step(output, timestep, found, return_dict=False)[0]
    return found
