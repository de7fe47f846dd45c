"""How much a LoRA changes unrelated prompts: everyday prompts, on samples of them by the base model.

docs/results.md has the formula and its limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from engine.results.check_plan import EVERYDAY_POINTS, EVERYDAY_STEPS
from engine.training.objective import NoisedBatch, Objective
from engine.training.probes import EVERYDAY_PROMPTS, Probe
from engine.training.seeds import generator

GUIDANCE = 3.0
"""Classifier-free guidance of the samples; with more, so few steps oversaturate."""
FIRST = 0.99
"""Share of the trained range at which sampling starts: with zero terminal SNR, a prediction at the very end contains
nothing about the latents."""
POINTS = (0.4, 0.6, 0.8)
"""Shares of the trained range at which predictions are compared: the content forms there."""
assert len(POINTS) == EVERYDAY_POINTS


class Predict(Protocol):
    """The denoiser's output [1, C, h, w] float32 for noised latents and a caption, with a probe's size conditioning."""

    def __call__(self, probe: Probe, caption: str, noised: NoisedBatch) -> Tensor: ...


class Bleed:
    """Samples of `EVERYDAY_PROMPTS`, repeated in turn, and the base model's predictions on them.

    To be created while the adapter is disabled.

    Args:
        probes: the samples take their sizes, in turn.
        shapes: of the probes' latents, (C, h, w).
        timesteps: the trained range.
        number: of samples.
    """

    def __init__(
        self,
        objective: Objective,
        predict: Predict,
        probes: Sequence[Probe],
        shapes: Sequence[torch.Size],
        *,
        device: torch.device,
        timesteps: tuple[int, int],
        seed: int,
        number: int,
    ) -> None:
        self._objective, self._predict, self._device = objective, predict, device
        self._low, self._span, self._seed = timesteps[0], timesteps[1] - timesteps[0], seed
        self._probes = [probes[n % len(probes)] for n in range(number)]
        self._samples = [self._generate(n, shapes[n % len(shapes)]) for n in range(number)]
        self._base = [self._predictions(n, EVERYDAY_PROMPTS[n % len(EVERYDAY_PROMPTS)]) for n in range(number)]

    def measure(self) -> float | None:
        """m / (m + d), with p the prediction, b the base model's, g the everyday prompt and sums over samples and
        timesteps: m = |p(g) - b(g)|², d = |p(g) - p("")|². None if neither is above 0."""
        moved = reach = 0.0
        for number, base in enumerate(self._base):
            prompt = EVERYDAY_PROMPTS[number % len(EVERYDAY_PROMPTS)]
            now, empty = (self._predictions(number, text) for text in (prompt, ""))
            moved += float((now - base).square().sum())
            reach += float((now - empty).square().sum())
        return moved / (moved + reach) if moved + reach > 0 else None

    def _generate(self, number: int, shape: torch.Size) -> Tensor:
        """Sample latents [C, h, w], on the CPU, in a few steps of DDIM."""
        noise = torch.randn(shape, generator=generator(self._seed, "everyday", number))[None].to(self._device)
        latents = torch.zeros_like(noise)
        prompt = EVERYDAY_PROMPTS[number % len(EVERYDAY_PROMPTS)]
        for step in range(EVERYDAY_STEPS):
            noised = self._noised(latents, noise, FIRST * (1 - step / EVERYDAY_STEPS))
            with_prompt, without = (self._predict(self._probes[number], text, noised) for text in (prompt, ""))
            latents, noise = self._objective.split(without + GUIDANCE * (with_prompt - without), noised)
        return latents[0].cpu()

    def _predictions(self, number: int, caption: str) -> Tensor:
        """Predictions [timesteps, C, h, w] on the CPU, for a noised sample."""
        latents, predictions = self._samples[number], []
        for point in POINTS:
            noise_generator = generator(self._seed, "everyday", number, int(point * 10))
            noise = torch.randn(latents.shape, generator=noise_generator)
            noised = self._noised(latents[None].to(self._device), noise[None].to(self._device), point)
            predictions.append(self._predict(self._probes[number], caption, noised)[0].cpu())
        return torch.stack(predictions)

    def _noised(self, latents: Tensor, noise: Tensor, point: float) -> NoisedBatch:
        timestep = self._low + round(self._span * point)
        return self._objective.add_noise(latents, noise, torch.tensor([timestep], device=self._device))
