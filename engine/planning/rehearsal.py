"""A whole run on a device that only counts: load, cache, a step, a sample, the held-out loss, a save.

What the phases do is the trainer's own code; only where it reads pictures or numbers it gets empty tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from engine.adapters import verify
from engine.adapters.lora import LoraNetwork
from engine.config import RunConfig
from engine.memory.ladder import apply_ladder
from engine.memory.plan import PHASES, Need
from engine.memory.workload import Size, Workload
from engine.models.base import Model, Recognition
from engine.models.drawing import in_tiles
from engine.models.registry import family_named
from engine.planning import device
from engine.planning.counter import StorageCounter
from engine.planning.kernels import CUBLAS, CUBLASLT, workspace
from engine.planning.optimizer import planned_optimizer
from engine.training.feed import Batch
from engine.training.loss import batch_loss
from engine.training.objective import Objective
from engine.training.objectives import objective_for
from engine.training.prepare import build_network, settle_down
from engine.training.texts import cached_encoders, captions_at_once

CAPTION = "a"
"""Every caption is filled up to the same length."""


def _ignore(_: str) -> None: ...


@dataclass
class _Run:
    """What the phases share."""

    config: RunConfig
    work: Workload
    model: Model
    counter: StorageCounter
    dtype: torch.dtype | None
    """Autocast's type; None: nothing is cast."""
    live: tuple[str, ...] = ()
    """Text encoders that run in each step."""
    text: dict[str, Tensor] = field(default_factory=dict)
    """What the others give for one caption, on the host."""
    kept: list[Any] = field(default_factory=list)
    """What stays on the device until the run ends: the optimizer and cuBLAS's workspaces."""


def rehearse(
    config: RunConfig,
    recognition: Recognition,
    work: Workload,
    precision: str,
    phases: Collection[str] = PHASES,
) -> list[Need]:
    """What each phase of the run needs on the card.

    Args:
        config: resolved.
        recognition: of the checkpoint, or of the configuration that ships with the program.
        precision: "no", "fp16" or "bf16".
        phases: of those after the training, which are wanted.

    Raises:
        LoraSmithError: what would stop the run too.
    """
    needs: list[Need] = []
    counter = StorageCounter(device.NAME, partial(workspace, deterministic=config.memory.deterministic))
    with device.pretending(counter):

        @contextmanager
        def phase(name: str) -> Iterator[None]:
            counter.restart()
            yield
            breakdown = {kind: size for kind, size in sorted(counter.kinds_at_peak.items()) if size > 0}
            needs.append(Need(name, counter.peak, counter.reserved, breakdown))

        with phase("load"):
            run = _load(config, recognition, work, precision, counter)
        with phase("cache"):
            _cache(run)
        network = _network(run)
        with phase("train"):
            objective = _train(run, network)
        if work.sample is not None and "sample" in phases:
            with phase("sample"), _evaluating(run, network):
                _sample(run, work.sample)
            with phase("frugal"), _evaluating(run, network):
                _sample_frugally(run, work.sample)
        if work.held_out and "validate" in phases:
            with phase("validate"), _evaluating(run, network):
                _loss(run, network, objective, work.encoded, 1)
        if "save" in phases:
            with phase("save"), _evaluating(run, network):
                verify.rehearse(network, run.model.trainable, run.model.reader)
    return needs


def _load(config: RunConfig, recognition: Recognition, work: Workload, precision: str, counter: StorageCounter) -> _Run:
    compute = {"no": "fp32"}.get(precision, precision)
    model = family_named(recognition.family).load(config, recognition, device.DEVICE, compute, _ignore, empty=True)
    vars(model).update(vae_key="", text_key="")  # their values are the weights', and these hold nothing
    apply_ladder(model, config.memory.model_copy(update={"torch_compile": False}), _ignore)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    with counter.kind("workspace"):
        products = torch.empty(CUBLAS + CUBLASLT, dtype=torch.uint8, device=device.DEVICE)
    return _Run(config, work, model, counter, dtype, kept=[products])


def _cache(run: _Run) -> None:
    memory, model, counter = run.config.memory, run.model, run.counter
    if memory.cache_latents or run.work.held_out:
        with counter.kind("weights"):
            model.acquire("vae")
        with counter.kind("activations"):
            model.encode_pixels(_pixels(memory.vae_batch_size, run.work.encoded))
        model.release("vae")
    cached = cached_encoders(run.config, model)
    run.live = tuple(name for name in model.text_encoders if name not in cached)
    if cached:
        with counter.kind("weights"):
            model.acquire("text_encoder")
        with torch.no_grad():
            found = model.encode_text([CAPTION] * captions_at_once(model), cached)
            run.text = {name: tensor[:1].cpu() for name, tensor in found.items()}
            model.remember([CAPTION])
        del found
        model.release("text_encoder")
        model.let_go(cached)
    with counter.kind("weights"):
        settle_down(model, texts=bool(run.live), latents=not memory.cache_latents)


def _network(run: _Run) -> LoraNetwork:
    counter = run.counter
    with counter.kind("adapter"):
        network = build_network(run.config, run.model, _ignore)
    for parameter in network.parameters():
        parameter.register_post_accumulate_grad_hook(lambda of: counter.rename(of.grad, "adapter"))  # type: ignore[no-untyped-call]
    return network


def _train(run: _Run, network: LoraNetwork) -> Objective:
    """One update as the second one is: the optimizer has its states already."""
    training, model, counter = run.config.training, run.model, run.counter
    objective = objective_for(training, model, torch.device(device.DEVICE))
    _training_mode(run, network, True)
    parameters = network.parameters()
    for parameter in parameters:
        with counter.kind("adapter"):
            parameter.grad = torch.zeros_like(parameter)
    with counter.kind("optimizer"):
        optimizer = planned_optimizer(training, network.parameter_groups())
        optimizer.step()
    if training.gradient_accumulation_steps == 1:
        optimizer.zero_grad(set_to_none=True)
    if model.residence.ring is not None:
        with counter.kind("slots"):
            model.residence.ring.fetch(0)
    loss = _loss(run, network, objective, run.work.batch, run.work.pictures)
    with counter.kind("workspace"):
        run.kept.append(torch.empty(CUBLAS, dtype=torch.uint8, device=device.DEVICE))
    loss.backward()  # type: ignore[no-untyped-call]
    if training.max_grad_norm > 0:
        torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
    with counter.kind("optimizer"):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    run.kept.append(optimizer)
    return objective


def _loss(run: _Run, network: LoraNetwork, objective: Objective, size: Size, pictures: int) -> Tensor:
    model = run.model
    if not run.config.memory.cache_latents and torch.is_grad_enabled():
        model.encode_pixels(_pixels(pictures, size))
    batch = Batch(
        latents=_latents(model, pictures, size),
        captions=[CAPTION] * pictures,
        text=_text(run, pictures),
        weights=torch.ones(pictures, device=device.DEVICE),
        mask=None,
        sizes=torch.zeros(pictures, 6, device=device.DEVICE),
    )
    return batch_loss(
        model,
        objective,
        batch,
        torch.Generator().manual_seed(0),
        live=run.live,
        trained=tuple(network.module_counts()),
        autocast=device.autocast(run.dtype),
    )


def _sample(run: _Run, size: Size) -> None:
    """One step of the sampler and the decoding: the steps are alike, and what a sampler keeps is small."""
    model, count = run.model, 2 if run.work.guided else 1
    with run.counter.kind("weights"), model.drawing(), run.counter.kind("activations"):
        together = 1 if model.apart else count  # what is encoded beforehand is drawn one after the other
        latents = _denoised(run, size, _prompts(run, together))
        model.decode_latents(latents)


def _sample_frugally(run: _Run, size: Size) -> None:
    """The same with one part after the other on the device."""
    model, kind = run.model, run.counter.kind
    text = _text(run, 1)
    if run.live:
        with kind("weights"), model.present("text_encoder"), kind("activations"):
            text = _prompts(run, 1)
    with kind("weights"), model.present("denoiser"), kind("activations"):
        latents = _denoised(run, size, text)
    with kind("weights"), in_tiles(model.vae, model.residence), kind("activations"):
        model.decode_latents(latents)


def _prompts(run: _Run, together: int) -> dict[str, Tensor]:
    known = _text(run, together)
    return {**known, **run.model.encode_text([CAPTION] * together, run.live)} if run.live else known


def _denoised(run: _Run, size: Size, text: dict[str, Tensor]) -> Tensor:
    together = len(next(iter(text.values())))
    latents = _latents(run.model, together, size)
    timesteps = torch.full((together,), 500, device=device.DEVICE)
    run.model.predict(latents, timesteps, text, torch.zeros(together, 6, device=device.DEVICE))
    return latents[:1]


def _pixels(pictures: int, size: Size) -> Tensor:
    return torch.empty(pictures, 3, size[1], size[0], device=device.DEVICE)


def _latents(model: Model, pictures: int, size: Size) -> Tensor:
    width, height = (side // model.downscale for side in size)
    return torch.empty(pictures, model.latent_channels, height, width, device=device.DEVICE)


def _text(run: _Run, pictures: int) -> dict[str, Tensor]:
    return {name: torch.cat([tensor] * pictures).to(device.DEVICE) for name, tensor in run.text.items()}


@contextmanager
def _evaluating(run: _Run, network: LoraNetwork) -> Iterator[None]:
    _training_mode(run, network, False)
    with torch.no_grad():
        yield


def _training_mode(run: _Run, network: LoraNetwork, mode: bool) -> None:
    for component in run.model.trainable.values():
        component.train(mode)
    network.train(mode)
    network.rely_on_autocast(mode and run.dtype is not None)
