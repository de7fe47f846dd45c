"""Measures of the weights at fixed images, timesteps, noise and captions.

docs/results.md has each formula with its source and its limits.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.adapters.network import AdapterNetwork
from engine.results.check_plan import CheckScope
from engine.training.batch_source import sizes_of
from engine.training.bleed import Bleed
from engine.training.objective import NoisedBatch, Objective
from engine.training.prepare import Prepared
from engine.training.probes import EVERYDAY_PROMPTS, Probe
from engine.training.seeds import generator


@dataclass(frozen=True)
class _Predictions:
    """Predictions for one image, float32 on the CPU."""

    own: Tensor
    """[timesteps, C, h, w] for its caption."""
    other: Tensor | None
    """The same for the caption of another image."""
    from_noise: Tensor
    """[C, h, w] for its caption, on pure noise."""
    everyday: Tensor
    """The same for one of `EVERYDAY_PROMPTS`."""


class Meter:
    """Measures a run's weights on its probes; the base model's predictions on them are computed once.

    Args:
        report: called before each image, with the number of those that are done and of all.
    """

    def __init__(
        self, prepared: Prepared, objective: Objective, scope: CheckScope, report: Callable[[int, int], None]
    ) -> None:
        self.scope, self._report = scope, report
        self.passes = 0
        """Forward passes of the denoiser so far."""
        self._prepared, self._objective = prepared, objective
        self._of = {
            validation: [probe for probe in prepared.probes if probe.is_validation == validation][:number]
            for validation, number in ((True, scope.validation), (False, scope.training))
        }
        self._contrasted = [*self._of[False], *self._of[True]][: scope.contrasted]
        self._base: list[_Predictions] | None = None
        self._bleed: Bleed | None = None
        training = prepared.config.training
        first, span = training.min_timestep, training.max_timestep - training.min_timestep
        self._points = [first + span * number // (scope.points + 1) for number in range(1, scope.points + 1)]
        self._noisiest = first + span * 9 // 10

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """Unweighted mean squared error on the validation and on the training images, at timesteps spread evenly over
        the trained range (200, 400, 600, 800 of 0 to 1000).

        Returns {"loss": mean, "loss_t200": ..., "train_loss": mean, "train_loss_t200": ...}; without validation images
        only the latter.
        """
        losses: dict[str, float] = {}
        done, total = 0, sum(map(len, self._of.values()))
        for validation, prefix in ((True, ""), (False, "train_")):
            if not (probes := self._of[validation]):
                continue
            sums = dict.fromkeys(self._points, 0.0)
            for probe in probes:
                self._report(done, total)
                done += 1
                for point in self._points:
                    output, noised = self._model_output(probe, probe.caption, point)
                    sums[point] += float((output - noised.target.cpu()).square().mean())
            losses[f"{prefix}loss"] = sum(sums.values()) / (len(probes) * len(sums))
            losses |= {f"{prefix}loss_t{point}": value / len(probes) for point, value in sums.items()}
        return losses

    @torch.no_grad()
    def measures(self) -> dict[str, float]:
        """How much the weights changed the predictions; keys that cannot be measured are missing.

        With p the prediction and b that of the base model, for a caption c and the caption of another image o, both on
        noised images, and for a caption C and an everyday prompt g without the trigger, both on pure noise; summed over
        images and timesteps:

        * shift: |p(c) - b(c)|² / |b(c)|²
        * response: <p(c) - p(o), b(c) - b(o)> / |b(c) - b(o)|²
        * leakage: |p(g) - b(g)|² / |p(C) - b(C)|²
        * drift: |p(g) - b(g)|² / |b(g)|²

        bleed: see `engine.training.bleed`.
        """
        started = time.perf_counter()
        if self._base is None:
            with disable_adapter(self._prepared.network):
                self._base = list(self._predictions())
                self._bleed = self._new_bleed()
        sums: dict[str, float] = defaultdict(float)
        for now, base in zip(self._predictions(), self._base, strict=True):
            sums["moved"] += _square(now.own - base.own)
            sums["size"] += _square(base.own)
            sums["from_noise"] += _square(now.from_noise - base.from_noise)
            sums["everyday"] += _square(now.everyday - base.everyday)
            sums["everyday_size"] += _square(base.everyday)
            if now.other is not None and base.other is not None:
                difference = base.own - base.other
                sums["response"] += float(((now.own - now.other) * difference).sum())
                sums["contrast"] += _square(difference)
        pairs = {
            "shift": ("moved", "size"), "response": ("response", "contrast"),
            "leakage": ("everyday", "from_noise"), "drift": ("everyday", "everyday_size"),
        }  # fmt: skip
        measures = {name: sums[above] / sums[below] for name, (above, below) in pairs.items() if sums[below] > 0}
        if self._bleed is not None and (bleed := self._bleed.measure()) is not None:
            measures["bleed"] = bleed
        return {**measures, "seconds": time.perf_counter() - started}

    def _new_bleed(self) -> Bleed | None:
        """The base model's samples of everyday prompts; None if there are none to measure."""
        if not self.scope.everyday or not self._contrasted:
            return None
        training, probes = self._prepared.config.training, self._contrasted
        return Bleed(
            self._objective, self._predict, probes, [self._latents(probe).shape for probe in probes],
            device=self._prepared.accelerator.device, timesteps=(training.min_timestep, training.max_timestep),
            seed=self._prepared.config.dataset.validation_seed, number=self.scope.everyday,
        )  # fmt: skip

    def _predictions(self) -> Iterator[_Predictions]:
        """The predictions for each image of the caption comparison, at every timestep."""
        for number, probe in enumerate(self._contrasted):
            self._report(number, len(self._contrasted))
            everyday = EVERYDAY_PROMPTS[number % len(EVERYDAY_PROMPTS)]
            from_noise = [
                self._model_output(probe, caption, self._noisiest, blank=True)[0]
                for caption in (probe.caption, everyday)
            ]
            own = self._at_all_points(probe, probe.caption)
            other = None if probe.other is None else self._at_all_points(probe, probe.other)
            yield _Predictions(own, other, *from_noise)

    def _at_all_points(self, probe: Probe, caption: str) -> Tensor:
        return torch.stack([self._model_output(probe, caption, point)[0] for point in self._points])

    def _model_output(
        self, probe: Probe, caption: str, point: int, *, blank: bool = False
    ) -> tuple[Tensor, NoisedBatch]:
        """The model's output [C, h, w] float32 on the CPU, in the target's form, and the noised batch.

        Args:
            blank: pure noise, without the image.
        """
        prepared, device = self._prepared, self._prepared.accelerator.device
        mean = self._latents(probe)
        role = "held-out" if probe.is_validation else "probe"  # seeds the noise: must not change
        noise_generator = generator(prepared.config.dataset.validation_seed, role, probe.number, point)
        noise = torch.randn(mean.shape, generator=noise_generator)
        noised = self._objective.add_noise(
            (torch.zeros_like(mean) if blank else mean)[None].to(device),
            noise[None].to(device),
            torch.tensor([point], device=device),
        )
        prediction = self._predict(probe, caption, noised)
        return self._objective.model_output(prediction, noised)[0].cpu(), noised

    def _predict(self, probe: Probe, caption: str, noised: NoisedBatch) -> Tensor:
        """The denoiser's output [1, C, h, w] float32, on the device."""
        self.passes += 1
        batches, model = self._prepared.batches, self._prepared.model
        with self._prepared.autocast():
            text = batches.cached_text([caption])
            if batches.uncached_encoders:
                text |= model.encode_text([caption], batches.uncached_encoders)
            sizes = sizes_of([(probe.item, False)]).to(self._prepared.accelerator.device)
            return model.predict(noised.noisy, noised.timesteps, text, sizes).float()

    def _latents(self, probe: Probe) -> Tensor:
        """The mean [C, h, w] of its image's latents."""
        return self._prepared.probe_latents.get(probe.item, False)[0].chunk(2)[0]


def _square(difference: Tensor) -> float:
    return float(difference.square().sum())


@contextmanager
def disable_adapter(network: AdapterNetwork) -> Iterator[None]:
    """Within it the model is the base model: the outer matrices are zero. Afterwards all weights are restored exactly.
    Only values change, so that compiled blocks stay valid."""
    ups = [up for module in network.modules for up in module.outer]
    kept = [up.detach().clone() for up in ups]
    try:
        with torch.no_grad():
            for up in ups:
                up.zero_()
        yield
    finally:
        with torch.no_grad():
            for up, value in zip(ups, kept, strict=True):
                up.copy_(value)
