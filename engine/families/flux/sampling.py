"""Generates an image with the current weights: Euler's method on FLUX's own schedule (diffusers' FluxPipeline)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from engine.types import SampleRequest


class SamplingModel(Protocol):
    """What sampling needs of a model."""

    device: torch.device
    latent_channels: int
    downscale: int
    scheduler_config: dict[str, Any]

    def prompt_outputs(self, prompt: str) -> Mapping[str, Tensor]:
        """The cached text-encoder outputs of a prompt."""

    def velocity(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], guidance: float) -> Tensor:
        """The transformer's output [B, C, h, w] float32."""


def prompts(request: SampleRequest) -> list[str]:
    """The prompts that an image needs: with classifier-free guidance the negative prompt comes first."""
    return [request.negative_prompt, request.prompt] if request.scale > 1.0 else [request.prompt]


def make_scheduler(config: dict[str, Any], steps: int, tokens: int, device: torch.device) -> Any:
    """The scheduler, set to `steps` from pure noise to the image; a dynamic shift depends on the image's number
    of 16 × 16 px patches."""
    scheduler_class: Any = FlowMatchEulerDiscreteScheduler
    scheduler = scheduler_class.from_config(config)
    slope = (config["max_shift"] - config["base_shift"]) / (config["max_image_seq_len"] - config["base_image_seq_len"])
    mu = config["base_shift"] + slope * (tokens - config["base_image_seq_len"])
    sigmas = [1.0 - step / steps for step in range(steps)]
    scheduler.set_timesteps(sigmas=sigmas, device=device, **({"mu": mu} if config["use_dynamic_shifting"] else {}))
    return scheduler


def latents(model: SamplingModel, request: SampleRequest) -> Tensor:
    """Sample latents [1, C, h, w]: the distilled guidance of the request, and classifier-free guidance above a
    scale of 1; noise from a generator of its own on the CPU, so that a seed gives the same image on every device (to
    rounding)."""
    grain = 2 * model.downscale
    width, height = (max(side - side % grain, 4 * grain) for side in (request.width, request.height))
    texts = [model.prompt_outputs(prompt) for prompt in prompts(request)]
    shape = (1, model.latent_channels, height // model.downscale, width // model.downscale)
    tokens = shape[2] // 2 * (shape[3] // 2)
    scheduler = make_scheduler(model.scheduler_config, request.steps, tokens, model.device)
    generator = torch.Generator("cpu").manual_seed(request.seed)
    latents: Tensor = torch.randn(shape, generator=generator).to(model.device)
    for timestep in scheduler.timesteps:
        outputs = [model.velocity(latents, timestep.expand(1), text, request.guidance) for text in texts]
        output = outputs[-1]
        if len(outputs) == 2:
            output = outputs[0] + request.scale * (outputs[1] - outputs[0])
        latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
    return latents
