"""The held-out loss: fixed pictures, timesteps and noise, so that two values differ by the weights alone."""

from __future__ import annotations

import torch

from engine.dataset.captions import deterministic
from engine.training.feed import sizes_of
from engine.training.objective import Objective
from engine.training.prepare import Prepared
from engine.training.seeds import generator

POINTS = 4
"""Timesteps per picture, evenly inside the trained range (200, 400, 600, 800 for all)."""


@torch.no_grad()
def held_out_loss(prepared: Prepared, objective: Objective) -> dict[str, float]:
    """Mean squared error over the held-out pictures, unweighted: {"loss": mean, "loss_t200": ...}."""
    config, model, device = prepared.config, prepared.model, prepared.accelerator.device
    first, last = config.training.min_timestep, config.training.max_timestep
    points = [first + (last - first) * k // (POINTS + 1) for k in range(1, POINTS + 1)]
    sums = dict.fromkeys(points, 0.0)
    for index, item in enumerate(prepared.held_out):
        mean = prepared.held_out_latents.get(item, False)[0].chunk(2)[0]
        sizes = sizes_of([(item, False)]).to(device)
        feed = prepared.feed
        caption = deterministic(item.text, item.rules or feed.rules)
        with prepared.accelerator.autocast():
            text = feed.cached_text([caption])
            if feed.live:
                text |= model.encode_text([caption], feed.live)
            for point in points:
                noise = torch.randn(
                    mean.shape, generator=generator(config.dataset.validation_seed, "held-out", index, point)
                )
                question = objective.noised(
                    mean[None].to(device), noise[None].to(device), torch.tensor([point], device=device)
                )
                answer = model.predict(question.noisy, question.timesteps, text, sizes)
                sums[point] += float((objective.compared(answer.float(), question) - question.target).square().mean())
    count = len(prepared.held_out)
    return {
        "loss": sum(sums.values()) / (count * POINTS),
        **{f"loss_t{point}": value / count for point, value in sums.items()},
    }
