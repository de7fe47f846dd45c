"""Rehearses all phases of a run on a device that only counts memory: load, cache, a step, a sample, the validation
loss, a save.

The phases run the trainer's own code, with empty tensors for images and latents.
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
from engine.adapters.network import AdapterNetwork
from engine.config import RunConfig
from engine.estimate.plan import PHASES, Need
from engine.estimate.worker import device
from engine.estimate.worker.counter import StorageCounter
from engine.estimate.worker.graph_pool import GraphPool, bytes_of
from engine.estimate.worker.kernels import CUBLAS, CUBLASLT, workspace
from engine.estimate.worker.optimizer import optimizer_for_counting
from engine.estimate.workload import Size, Workload
from engine.families.base import Model
from engine.families.registry import family_named
from engine.hardware import compute_dtype
from engine.lowmem.settings import apply_memory_settings
from engine.models.drawing import in_tiles
from engine.models.loading import DTYPES
from engine.runs.phase import Phase
from engine.training.batch_source import Batch
from engine.training.flat_update import UpdateLayout, update_layout
from engine.training.graphs import LEAST_UPDATES, LIMIT, why_not
from engine.training.objective import Noise, Objective
from engine.training.prepare import build_network, place_for_training, uses_autocast
from engine.training.step import batch_loss, objective_for
from engine.training.texts import cached_encoders, captions_at_once
from engine.types import Progress, Recognition

CAPTION = "a"
"""Any text: every caption is padded to the same length."""


def _ignore(_: str) -> None: ...


@dataclass
class _Run:
    """State shared by the phases."""

    config: RunConfig
    work: Workload
    model: Model
    counter: StorageCounter
    dtype: torch.dtype
    """What the layers compute in."""
    uses_autocast: bool
    uncached_encoders: tuple[str, ...] = ()
    """Text encoders that run in each step."""
    text: dict[str, Tensor] = field(default_factory=dict)
    """Cached outputs of the other text encoders for one caption, on the host."""
    graphs: GraphPool | None = None
    """None: its steps are not captured."""
    kept: list[Any] = field(default_factory=list)
    """Objects that stay on the device until the run ends: the optimizer and cuBLAS's workspaces."""


def rehearse(
    config: RunConfig,
    recognition: Recognition,
    work: Workload,
    precision: str,
    phases: Collection[str] = PHASES,
    counter: StorageCounter | None = None,
    report: Progress = lambda _done, _total: None,
) -> list[Need]:
    """The need of each phase of the run on the card.

    Args:
        config: resolved.
        recognition: of the checkpoint, or of a reference model.
        precision: "no", "fp16" or "bf16".
        phases: selects among the phases after the training.
        counter: sees every operation; None: one of its own.
        report: called with (done, all) before each phase.

    Raises:
        LoraSmithError: an error that would stop the run too.
    """
    needs: list[Need] = []
    total = len(Phase) - 1  # without the start
    counter = counter or StorageCounter(device.NAME, partial(workspace, deterministic=config.memory.deterministic))
    with device.pretending(counter):

        @contextmanager
        def phase(which: Phase) -> Iterator[None]:
            report(len(needs), total)
            counter.restart()
            yield
            breakdown = {kind: size for kind, size in sorted(counter.kinds_at_peak.items()) if size > 0}
            needs.append(Need(which.value, counter.peak, counter.reserved, breakdown))

        with phase(Phase.LOAD):
            run = _load(config, recognition, work, precision, counter)
        with phase(Phase.CACHE):
            _cache(run)
        network = _network(run)
        with phase(Phase.TRAIN):
            objective = _train(run, network)
        if run.graphs is not None:
            needs[-1] = run.graphs.added_to(needs[-1])
        if work.sample is not None and Phase.SAMPLE in phases:
            with phase(Phase.SAMPLE), _evaluating(run, network):
                _sample(run, work.sample)
            with phase(Phase.SAMPLE_LOW_MEMORY), _evaluating(run, network):
                _sample_low_memory(run, work.sample)
        if work.validates and Phase.VALIDATE in phases:
            with phase(Phase.VALIDATE), _evaluating(run, network):
                _loss(run, network, objective, _batch(run, work.encoded, 1))
        if Phase.SAVE in phases:
            with phase(Phase.SAVE), _evaluating(run, network):
                verify.rehearse(network, run.model.trainable, run.model.reader)
    report(total, total)
    return needs


def _load(config: RunConfig, recognition: Recognition, work: Workload, precision: str, counter: StorageCounter) -> _Run:
    load, compute = family_named(recognition.family).load, compute_dtype(precision)
    model = load(config, recognition, device.DEVICE, compute, _ignore, empty=True)
    vars(model).update(vae_key="", text_key="")  # they are hashes of the weights, which are fake here
    memory = config.memory.model_copy(update={"torch_compile": "off"})
    apply_memory_settings(model, memory, _ignore, draws=config.network.draws)
    with counter.kind("workspace"):
        products = torch.empty(CUBLAS + CUBLASLT, dtype=torch.uint8, device=device.DEVICE)
    dtype, autocast = DTYPES[compute], uses_autocast(config, precision)
    return _Run(config, work, model, counter, dtype, autocast, kept=[products])


def _cache(run: _Run) -> None:
    memory, model, counter = run.config.memory, run.model, run.counter
    if memory.cache_latents or run.work.validates:
        with counter.kind("weights"):
            model.acquire("vae")
        with counter.kind("activations"):
            model.encode_pixels(_pixels(memory.vae_batch_size, run.work.encoded))
        model.release("vae")
    cached = cached_encoders(run.config, model)
    run.uncached_encoders = tuple(name for name in model.text_encoders if name not in cached)
    if cached:
        with counter.kind("weights"):
            model.acquire("text_encoder")
        with torch.no_grad():
            outputs = model.encode_text([CAPTION] * captions_at_once(model), cached)
            run.text = {name: tensor[:1].cpu() for name, tensor in outputs.items()}
            model.precompute_prompts([CAPTION])
        del outputs
        model.release("text_encoder")
        model.free_encoders(cached)
    with counter.kind("weights"):
        place_for_training(model, texts=bool(run.uncached_encoders), latents=not memory.cache_latents)


def _network(run: _Run) -> AdapterNetwork:
    counter = run.counter
    with counter.kind("adapter"):
        network = build_network(run.config, run.model, _ignore)
    return network


def _train(run: _Run, network: AdapterNetwork) -> Objective:
    """The second update of a run: the optimizer has its states already. The batch of the next one is there too."""
    training, model, counter = run.config.training, run.model, run.counter
    objective = objective_for(run.config, model, torch.device(device.DEVICE))
    _training_mode(run, network, True)
    with counter.kind("adapter"):
        layout = update_layout(network, run.config, None if run.uses_autocast else run.dtype)
        layout.keeps_gradients = captured = _captures(run, layout)
        layout.allocate()
        layout.collect()
        for holder in layout.holders:
            if holder.grad is None:
                holder.grad = torch.zeros_like(holder)
    for parameter in layout.holders:
        parameter.register_post_accumulate_grad_hook(lambda of: counter.rename(of.grad, "adapter"))  # type: ignore[no-untyped-call]
    with counter.kind("optimizer"):
        optimizer = optimizer_for_counting(training, layout.groups)
        optimizer.step()
    if training.gradient_accumulation_steps == 1:
        layout.clear()
    if model.placement.ring is not None:
        with counter.kind("slots"):
            model.placement.ring.fetch(0)
    if not run.config.memory.cache_latents:
        model.encode_pixels(_pixels(run.work.images, run.work.batch))
    batch, following = (_batch(run, run.work.batch, run.work.images) for _ in range(2))
    before, gradients = counter.live, bytes_of(layout.memory())
    counter.stage = "forward"
    with layout.step:
        loss = _loss(run, network, objective, batch)
        with counter.kind("workspace"):
            run.kept.append(torch.empty(CUBLAS, dtype=torch.uint8, device=device.DEVICE))
        counter.stage = "backward"
        loss.backward()  # type: ignore[no-untyped-call]
        with counter.kind("adapter"):
            layout.collect()
    after = counter.live
    counter.stage = "update"
    if training.max_grad_norm > 0:
        torch.nn.utils.clip_grad_norm_(layout.holders, training.max_grad_norm)
    with counter.kind("optimizer"):
        optimizer.step()
    peaks, counter.stage = counter.stage_peaks, ""
    if captured:
        run.graphs = GraphPool(
            passes=max(peaks["forward"], peaks["backward"]) - before,
            batch=bytes_of(batch.tensors()),
            gradients=gradients,
            update=max(0, peaks["update"] - after),
            captured=min(run.work.shapes, LIMIT),
            has_several_shapes=run.work.shapes > 1,
        )
    layout.clear()
    layout.release()
    del batch, following
    run.kept += [optimizer, layout]
    return objective


def _captures(run: _Run, layout: UpdateLayout) -> bool:
    """Whether steps are launched as CUDA graphs, if the run is long enough."""
    config, encoders = run.config, run.uncached_encoders
    return config.memory.cuda_graphs != "off" and not why_not(
        config,
        layout,
        device=torch.device("cuda"),
        updates=LEAST_UPDATES,
        parts=[*(run.model.text_encoders[name] for name in encoders), list(run.model.trainable.values())[-1]],
        tokenises=bool(encoders) and not run.model.tokens([CAPTION], encoders),
    )


def _batch(run: _Run, size: Size, images: int) -> Batch:
    """On the device, like one of the trainer's loader."""
    model, captions = run.model, [CAPTION] * images
    latents = _latents(model, images, size, "cpu")
    batch = Batch(
        latents=latents,
        noise=_noise(run, latents),
        captions=captions,
        tokens=model.tokens(captions, run.uncached_encoders) if run.uncached_encoders else {},
        text=_text(run, images),
        weights=torch.ones(images),
        mask=None,
        sizes=torch.zeros(images, 6),
    )
    return batch.each(lambda tensor: tensor.to(device.DEVICE))


def _noise(run: _Run, latents: Tensor) -> Noise:
    """As `Objective.sample_noise`, whose draws may need values."""
    timesteps = torch.full((len(latents),), 500.0 if run.model.prediction_type == "flow" else 500)
    perturbed = None if run.config.training.ip_noise_gamma is None else torch.empty_like(latents)
    return Noise(torch.empty_like(latents), timesteps, perturbed)


def _loss(run: _Run, network: AdapterNetwork, objective: Objective, batch: Batch) -> Tensor:
    return batch_loss(
        run.model,
        objective,
        batch,
        network=network,
        uncached_encoders=run.uncached_encoders,
        trained=tuple(network.module_counts()),
        autocast=device.autocast(run.dtype if run.uses_autocast else None),
    )


def _sample(run: _Run, size: Size) -> None:
    """One sampling step and the decoding: all steps are alike, and the sampler's own state is small."""
    model, count = run.model, 2 if run.work.guided else 1
    with run.counter.kind("weights"), model.sampling_ready(), run.counter.kind("activations"):
        batch_size = 1 if model.cached_only_encoders else count  # FLUX denoises cached prompts one after the other
        latents = _denoised(run, size, _prompts(run, batch_size))
        model.decode_latents(latents)


def _sample_low_memory(run: _Run, size: Size) -> None:
    """The same with one part at a time on the device."""
    model, kind = run.model, run.counter.kind
    text = _text(run, 1)
    if run.uncached_encoders:
        with kind("weights"), model.on_device("text_encoder"), kind("activations"):
            text = _prompts(run, 1)
    with kind("weights"), model.on_device("denoiser"), kind("activations"):
        latents = _denoised(run, size, text)
    with kind("weights"), in_tiles(model.vae, model.placement), kind("activations"):
        model.decode_latents(latents)


def _prompts(run: _Run, count: int) -> dict[str, Tensor]:
    text = _text(run, count)
    if run.uncached_encoders:
        text |= run.model.encode_text([CAPTION] * count, run.uncached_encoders)
    return text


def _denoised(run: _Run, size: Size, text: dict[str, Tensor]) -> Tensor:
    count = len(next(iter(text.values())))
    latents = _latents(run.model, count, size)
    timesteps = torch.full((count,), 500, device=device.DEVICE)
    run.model.predict(latents, timesteps, text, torch.zeros(count, 6, device=device.DEVICE))
    return latents[:1]


def _pixels(images: int, size: Size) -> Tensor:
    return torch.empty(images, 3, size[1], size[0], device=device.DEVICE)


def _latents(model: Model, images: int, size: Size, where: str = device.DEVICE) -> Tensor:
    width, height = (side // model.downscale for side in size)
    return torch.empty(images, model.latent_channels, height, width, device=where)


def _text(run: _Run, images: int) -> dict[str, Tensor]:
    return {name: torch.cat([tensor] * images).to(device.DEVICE) for name, tensor in run.text.items()}


@contextmanager
def _evaluating(run: _Run, network: AdapterNetwork) -> Iterator[None]:
    _training_mode(run, network, False)
    with torch.no_grad():
        yield


def _training_mode(run: _Run, network: AdapterNetwork, mode: bool) -> None:
    for component in run.model.trainable.values():
        component.train(mode)
    network.train(mode)
    network.rely_on_autocast(mode and run.dtype != torch.float32)
