"""The loss of one batch: what a step asks the model, and what the planner counts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from engine.models.base import Model
from engine.training.feed import Batch
from engine.training.objective import Objective


def batch_loss(
    model: Model,
    objective: Objective,
    batch: Batch,
    draws: torch.Generator,
    *,
    live: Sequence[str],
    trained: Collection[str],
    autocast: AbstractContextManager[None],
) -> Tensor:
    """Mean weighted loss of a batch, a scalar with its graph.

    Args:
        draws: of noise and timesteps.
        live: text encoders that run now: those that are not cached.
        trained: components that have a LoRA.
        autocast: the region in which the model computes.
    """
    question = objective.ask(batch.latents, draws)
    with autocast:
        text = dict(batch.text)
        if live:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not set(trained).isdisjoint(live)):
                text |= model.encode_text(batch.captions, live)
        prediction = model.predict(question.noisy, question.timesteps, text, batch.sizes)
    return (objective.losses(prediction.float(), question, batch.mask) * batch.weights).mean()
