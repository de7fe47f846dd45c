"""One optimizer update: forward and backward passes of its batches, clipping, the optimizer's step."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from engine.adapters.network import AdapterNetwork
from engine.config import RunConfig
from engine.families.base import Model
from engine.training.batch_source import Batch
from engine.training.flow import FlowObjective
from engine.training.graphs import Capturer, GraphedPasses
from engine.training.loader import BatchLoader
from engine.training.objective import DiffusionObjective, Objective
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
        self.graphs: GraphedPasses | None = None
        self.grad_norm = math.nan
        """Of the last update whose loss was finite, before clipping."""
        self.used_rates: dict[str, float] = {}
        """Learning rate of each group in the last applied update."""
        self.used_factors: dict[str, float] = {}
        """The part of it that the optimizer found, where it finds one."""
        self.norms: dict[str, float] = {}
        """With `scale_weight_norms`: the norms of the modules after the last update (`StepEvent.norms`)."""

    def __call__(self) -> tuple[float, str]:
        """Make the update; returns the mean loss, and which value was not finite if the update is skipped, else ""."""
        batches = self.batches.micro_batches(self.state.step)
        training = self.state.config.training
        # Kohya divides by the full number of batches also in an epoch's last update, which may have fewer.
        accumulation = training.gradient_accumulation_steps if training.kohya_exact else len(batches)
        total = torch.zeros((), device=self.accelerator.device)
        with self.state.layout.step:
            for micro in range(len(batches)):
                if self.graphs is None:
                    loss = self.loss(micro)
                    self.accelerator.backward(loss / accumulation)
                else:
                    loss = self.graphs(self.loader.load(self.state.step, micro), accumulation)
                self.state.layout.collect()
                total += loss.detach() / len(batches)
        mean = self.ranks.mean(total)
        if not math.isfinite(mean):
            return mean, f"loss {mean}"
        self.ranks.average_gradients(self.state.layout.holders)
        self._clip()
        return mean, "" if self._apply() else f"gradient norm {self.grad_norm}"

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
            (loss / parts).backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        graphs = GraphedPasses(compute, layout.memory, capturer, log, exact=exact, wait=self.loader.wait)
        self.graphs, self.state.forget_recordings = graphs, graphs.release

    def _clip(self) -> None:
        limit, parameters = self.state.config.training.max_grad_norm, self.state.layout.holders
        if limit > 0:
            norm = self.accelerator.clip_grad_norm_(parameters, limit)
            self.grad_norm = float(norm) if norm is not None else math.nan
        else:
            self.accelerator.unscale_gradients(self.state.optimizer)
            self.grad_norm = float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))

    def _apply(self) -> bool:
        """Step the optimizer if the gradients are finite; False if the step is skipped as an error.

        With a gradient scaler some overflows are normal: it skips the step itself and halves its scale.
        """
        state, finite = self.state, math.isfinite(self.grad_norm)
        if finite or state.scaler is not None:
            self.used_rates, self.used_factors = state.rates(), state.rate_factors()
            state.weights_consistent = False
            state.optimizer.step()
        if finite:
            if state.schedule is not None:
                for _ in range(state.steps_per_update):
                    state.schedule.step()
            if (limit := state.config.network.scale_weight_norms) is not None:
                scaled, mean, largest = state.network.apply_max_norm(limit)
                self.norms = {"keys_scaled": scaled, "max_key_norm": largest, "avg_key_norm": mean}
        good = finite if state.scaler is None else state.recovery.count_overflow(finite)
        if good:
            state.recovery.count_good()
        return good


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
