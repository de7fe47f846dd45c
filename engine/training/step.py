"""One optimizer update: forward and backward passes of its batches, clipping, the optimizer's step."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from engine.adapters.network import AdapterNetwork
from engine.config import RunConfig
from engine.families.base import Model
from engine.training.batch_source import Batch
from engine.training.flow import FlowObjective
from engine.training.gradient_buckets import GradientBuckets
from engine.training.graphs import Capturer, GraphedPasses
from engine.training.loader import BatchLoader
from engine.training.objective import DiffusionObjective, Objective
from engine.training.outcome import Outcome, Readout
from engine.training.prepare import Prepared
from engine.training.ranks import Ranks
from engine.training.seeds import derive
from engine.training.train_state import TrainState
from engine.types import Log


class TrainStep:
    """Makes the update that follows `state.step`; the caller advances the step.

    Args:
        prepared: the batches and the model.
    """

    def __init__(self, prepared: Prepared, state: TrainState, ranks: Ranks, objective: Objective) -> None:
        self.prepared = prepared
        self.batches, self.model, self.accelerator = prepared.batches, prepared.model, prepared.accelerator
        self.state, self.ranks, self.objective = state, ranks, objective
        self.loader = BatchLoader(prepared.batches, objective, prepared.accelerator.device)
        self.buckets = GradientBuckets(state.layout, ranks.size)
        self.graphs: GraphedPasses | None = None
        self.reads_late = prepared.accelerator.device.type == "cuda" and self.can_read_late
        """Whether the next update may begin before anybody knows whether this one is finite."""

    @property
    def can_read_late(self) -> bool:
        """Whether the device itself can skip an update that is not finite: torch's fused optimizers take a flag for it.
        The ranks of a run decide together, norms of modules are limited on the host, and Kohya's schedule stands still
        in a skipped step."""
        config, optimizer = self.state.config, self.state.built.optimizer
        is_able = getattr(optimizer, "_step_supports_amp_scaling", False)
        on_host = self.ranks.size > 1 or config.network.scale_weight_norms is not None or config.training.kohya_exact
        return bool(is_able) and not on_host

    def __call__(self) -> Outcome:
        """Make the update, or skip it if its loss or its gradients are not finite."""
        state, started = self.state, time.perf_counter()
        batches = self.batches.micro_batches(state.step)
        training = state.config.training
        # Kohya divides by the full number of batches also in an epoch's last update, which may have fewer.
        accumulation = training.gradient_accumulation_steps if training.kohya_exact else len(batches)
        total = torch.zeros((), device=self.accelerator.device)
        with state.layout.step:
            for micro in range(len(batches)):
                with self.buckets.backward(last=micro == len(batches) - 1):
                    if self.graphs is None:
                        loss = self.loss(micro)
                        self.accelerator.backward(loss / accumulation)
                    else:
                        loss = self.graphs(self.loader.load(state.step, micro), accumulation)
                total += loss.detach() / len(batches)
        mean, presence = self.ranks.combine(total, self.buckets.presence())
        self.buckets.finish(presence)
        values = torch.stack((mean, self._clip().to(mean)))
        outcome = Outcome(state.step, Readout(values), state.rates(), state.rate_factors(), started)
        state.weights_consistent = False
        if self.reads_late:
            self._apply_on_device(values)
        elif outcome.is_finite:
            state.built.optimizer.step()
        if state.scaler is not None:
            state.scaler.update()
        self._advance_schedule(outcome)
        if (limit := state.config.network.scale_weight_norms) is not None and outcome.is_finite:
            scaled, average, largest = state.network.apply_max_norm(limit)
            outcome.norms = {"keys_scaled": scaled, "max_key_norm": largest, "avg_key_norm": average}
        return outcome

    def loss(self, micro: int, step: int | None = None) -> Tensor:
        """Mean weighted loss of one micro-batch of update `step` (None: the next one), on which alone its random
        numbers depend."""
        seed, rank = self.state.config.training.seed, self.batches.rank
        step = self.state.step if step is None else step
        torch.manual_seed(derive(seed, "dropout", step, micro, rank))
        return self._loss_of(self.loader.load(step, micro))

    def _loss_of(self, batch: Batch) -> Tensor:
        return batch_loss(
            self.model,
            self.objective,
            batch,
            network=self.state.network,
            uncached_encoders=self.batches.uncached_encoders,
            trained=self.state.components,
            autocast=self.prepared.autocast(),
        )

    def use_graphs(self, capturer: Capturer, log: Log, *, exact: bool) -> None:
        """Launch the passes of batches as graphs; see `engine.training.graphs.GraphedPasses`."""
        layout = self.state.layout
        layout.keeps_gradients = True

        def compute(batch: Batch, parts: int) -> Tensor:
            loss = self._loss_of(batch)
            self.accelerator.backward(loss / parts)  # fp16's scale is on the device, and changes in place
            return loss.detach()

        graphs = GraphedPasses(compute, layout.memory, capturer, log, exact=exact, wait=self.loader.wait)
        self.graphs, self.state.forget_recordings = graphs, graphs.release

    def _clip(self) -> Tensor:
        """The norm of the gradients, a scalar, which are without fp16's scale and clipped afterwards."""
        limit, parameters = self.state.config.training.max_grad_norm, self.state.layout.holders
        self.accelerator.unscale_gradients(self.state.optimizer)
        if limit > 0:
            return torch.nn.utils.clip_grad_norm_(parameters, limit)
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def _apply_on_device(self, values: Tensor) -> None:
        """Step a fused optimizer, which does nothing if a value is not finite: it takes the flag of a gradient scaler.

        Args:
            values: of the update, on the device.
        """
        optimizer: Any = self.state.built.optimizer
        optimizer.found_inf = values.isfinite().all().logical_not().float()
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf

    def _advance_schedule(self, outcome: Outcome) -> None:
        """Its place is the number of steps, whether they were skipped or not; Kohya's is that of the others."""
        state = self.state
        if state.schedule is None or (state.config.training.kohya_exact and not outcome.is_finite):
            return
        for _ in range(state.steps_per_update):
            state.schedule.step()


def objective_for(config: RunConfig, model: Model, device: torch.device) -> Objective:
    """The objective for the model's prediction type, with its tables on `device`."""
    if model.prediction_type == "flow":
        return FlowObjective(config.training, config.flow)
    training = config.training
    table = model.training_alphas_cumprod.to(device)
    # Kohya computes the SNR table before rescaling the schedule to a zero terminal SNR.
    snr_alphas_cumprod = model.plain_alphas_cumprod.to(device) if training.kohya_exact else None
    return DiffusionObjective(training, table, model.prediction_type, snr_alphas_cumprod)


def batch_loss(
    model: Model,
    objective: Objective,
    batch: Batch,
    *,
    network: AdapterNetwork,
    uncached_encoders: Sequence[str],
    trained: Collection[str],
    autocast: AbstractContextManager[None],
) -> Tensor:
    """Mean weighted loss of a batch, a scalar with its graph. Nothing is copied from the host.

    Args:
        network: in the model; its masks follow the timesteps.
        uncached_encoders: text encoders that run in this step.
        trained: components that have a LoRA.
        autocast: the context in which the model computes.
    """
    noised = objective.add_noise(batch.latents, *batch.noise)
    network.follow(noised.timesteps)
    with autocast:
        text = dict(batch.text)
        if uncached_encoders:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not set(trained).isdisjoint(uncached_encoders)):
                text |= _encoded(model, batch, uncached_encoders)
        prediction = model.predict(noised.noisy, noised.timesteps, text, batch.sizes)
    return (objective.losses(prediction.float(), noised, batch.mask) * batch.weights).mean()


def _encoded(model: Model, batch: Batch, encoders: Sequence[str]) -> dict[str, Tensor]:
    if batch.tokens:
        return model.encode_tokens(batch.tokens, encoders)
    return model.encode_text(batch.captions, encoders)
