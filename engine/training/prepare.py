"""Everything between the run directory and the first step: settings, pictures, model, caches, LoRA."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from safetensors.torch import load_file

from engine import paths
from engine.adapters.formats import in_kohya_names, recognised
from engine.adapters.lora import LoraNetwork
from engine.adapters.names import is_peft
from engine.adapters.peft_format import to_kohya
from engine.adapters.start import check_start
from engine.config import RunConfig, load_config, require_paths, resolve
from engine.config.prompts import read_prompts
from engine.config.resolve import check_model
from engine.dataset.arithmetic import StepPlan, make_items, plan_steps, validation_items
from engine.dataset.batches import Item
from engine.dataset.buckets import BucketGrid
from engine.dataset.digests import FileDigests
from engine.dataset.latents import LatentCache
from engine.dataset.pictures import Scan
from engine.dataset.scan import scan, verify_pixels
from engine.dataset.thumbnail import thumbnail
from engine.errors import UsageError
from engine.hardware import Gpu, choose_precision
from engine.memory.ladder import apply_ladder
from engine.models.base import Model, Recognition, Say
from engine.models.header import read_header
from engine.models.registry import family_named, recognise
from engine.runs.disk import estimate
from engine.training.exactness import choose_kernels
from engine.training.feed import Feed
from engine.training.inputs import check_inputs
from engine.training.measured import PhasePeaks
from engine.training.optimizers import check_optimizer
from engine.training.schedules import check_schedule
from engine.training.seeds import derive
from engine.training.session import Session
from engine.training.states import plan_from_here
from engine.training.texts import cache_texts


@dataclass
class Prepared:
    """What the loop works with."""

    config: RunConfig
    recognition: Recognition
    scan: Scan
    plan: StepPlan
    model: Model
    network: LoraNetwork
    feed: Feed
    held_out: Sequence[Item]
    held_out_latents: LatentCache
    accelerator: Accelerator
    precision: str
    inputs: str
    """Digest of what the run is trained on: see `engine.training.inputs`."""


def prepare(session: Session) -> Prepared:
    """Read, check, load and cache; says every decision with its reason.

    Raises:
        LoraSmithError: something that the person must mend.
        Stopped: a stop was asked for meanwhile.
    """
    config = session.run.with_own_datasets(load_config(session.run.config_path))
    require_paths(config)
    memory = config.memory
    cached = memory.cache_text_encoder_outputs or memory.cache_text_encoder_outputs_to_disk
    raw = config.training.kohya_exact and cached
    recognition = recognise(config.model.pretrained_model_name_or_path)
    family = family_named(recognition.family)
    recognition = family.in_force(config, recognition)
    config, settled = family.settle(config, recognition)
    config, notes = resolve(config, partial_text_cache=family.partial_text_cache)
    for note in [*recognition.reasons, *settled, *notes]:
        session.say(note)
    _check_settings(config, recognition, family.lora_base)
    prompts = read_prompts(config, lambda _: None, family.prompt_flags)
    accelerator, precision = _accelerator(config, session)
    if accelerator.device.type == "cuda":
        session.peaks = PhasePeaks.of(accelerator.device)
    if config.memory.num_cpu_threads_per_process:
        torch.set_num_threads(config.memory.num_cpu_threads_per_process)
    with session.phase("load"):
        pictures, digests = scan(config, session.progress("load", "pictures")), FileDigests()
        inputs = check_inputs(session, config, pictures, recognition.path, accelerator.device, digests)
        pictures, model = _load(session, config, pictures, recognition, str(accelerator.device), precision)
    with session.phase("cache"):
        pictures, items, held_out, plan, latents, held_out_latents = _latents(session, config, pictures, model, digests)
    for line in [*pictures.lines(), *plan.lines()]:
        session.say(line)
    plan = plan_from_here(plan, session.run.checkpoints, session.say)
    _check_disk(session, config, model.recognition, plan)
    rank, num_processes = accelerator.process_index, accelerator.num_processes
    feed = Feed(
        config, items, plan, model, accelerator.device, latents, None, rank=rank, num_processes=num_processes, raw=raw
    )
    with session.phase("cache"):
        cache_texts(session, config, feed, model, held_out, [prompt.request for prompt in prompts])
        settle_down(model, texts=bool(feed.live), latents=latents is None)
    network = build_network(config, model, session.say)
    return Prepared(
        config,
        model.recognition,
        pictures,
        plan,
        model,
        network,
        feed,
        held_out,
        held_out_latents,
        accelerator,
        precision,
        inputs,
    )


def _check_settings(config: RunConfig, recognition: Recognition, base: str) -> None:
    """What can be refused before anything large is read."""
    check_model(config, recognition)
    check_optimizer(config.training)
    check_schedule(config.training)
    if config.saving.metadata_thumbnail:
        thumbnail(config.saving.metadata_thumbnail)
    check_start(config, base)


def settle_down(model: Model, *, texts: bool, latents: bool) -> None:
    """Bring to the device what every step needs; what caching took is for other programs again.

    Args:
        texts: whether steps encode captions.
        latents: whether steps encode pictures.
    """
    model.acquire("denoiser")
    if texts:
        model.acquire("text_encoder")
    if latents:
        model.acquire("vae")
    if model.residence.device.type == "cuda":
        torch.cuda.empty_cache()


def _load(
    session: Session, config: RunConfig, pictures: Scan, recognition: Recognition, device: str, precision: str
) -> tuple[Scan, Model]:
    """The pictures that decode, and the model in the host's memory, its weights in the compute dtype."""
    pictures = verify_pixels(pictures, session.progress("load", "pictures"))
    session.stop_here()
    compute = {"no": "fp32"}.get(precision, precision)
    model = family_named(recognition.family).load(config, recognition, device, compute, session.say)
    apply_ladder(model, config.memory, session.say)
    session.stop_here()
    return pictures, model


def _check_disk(session: Session, config: RunConfig, recognition: Recognition, plan: StepPlan) -> None:
    prompts = config.sampling.sample_prompts
    need = estimate(config, recognition, plan, len(prompts) if isinstance(prompts, list) else 4)
    if warning := need.check(session.run.path):
        session.warn("disk", warning)


def _accelerator(config: RunConfig, session: Session) -> tuple[Accelerator, str]:
    wish, device = config.memory.mixed_precision, config.memory.device
    has_cuda = torch.cuda.is_available()
    if device.startswith("cuda") and not has_cuda:
        raise UsageError(
            f"memory.device={device}, but torch finds no GPU here.", "Set memory.device=cpu, or mend the driver."
        )
    gpu = None
    if has_cuda and device != "cpu":
        index = int(os.environ.get("LOCAL_RANK") or device.partition(":")[2] or 0)
        torch.cuda.set_device(index)
        choose_kernels(config.memory.deterministic)
        # From torch and not from NVML: CUDA_VISIBLE_DEVICES may count otherwise, and NVML may be missing.
        gpu = Gpu(index, torch.cuda.get_device_name(index), compute_capability=torch.cuda.get_device_capability(index))
    choice = choose_precision(wish, gpu)
    session.say(f"Precision {choice.value}: {choice.reason}.")
    # The other ranks wait while rank 0 draws samples: give that hours.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    on_cpu = not has_cuda or device == "cpu"
    return Accelerator(mixed_precision=choice.value, cpu=on_cpu, kwargs_handlers=[patience]), choice.value


def _latents(
    session: Session, config: RunConfig, pictures: Scan, model: Model, digests: FileDigests
) -> tuple[Scan, list[Item], list[Item], StepPlan, LatentCache | None, LatentCache]:
    """Caches on disk or in memory; pictures that do not decode after all are set aside and the plan made anew."""
    known = model.recognition
    grid = BucketGrid.from_config(config, multiple=known.multiple, downscale=known.downscale)
    memory = config.memory
    root = Path(memory.cache_dir) if memory.cache_dir else paths.user_cache()
    directory = root / "latents" if memory.cache_latents_to_disk else None
    cache = LatentCache(directory, model.vae_key, config.dataset, digests)
    unflipped = config.dataset.model_copy(update={"flip_aug": False})
    held_out_cache = LatentCache(directory, model.vae_key, unflipped, digests)
    while True:
        items, held_out = make_items(pictures, grid), validation_items(pictures, grid)
        rejected = []
        for target, wanted in ((cache, items if memory.cache_latents else []), (held_out_cache, held_out)):
            if wanted:
                with model.present("vae"):
                    report = target.build(
                        wanted,
                        model.encode_pixels,
                        memory.vae_batch_size,
                        session.progress("cache", "pictures"),
                        session.should_stop,
                    )
                session.stop_here()
                rejected += report.rejected
                for note in report.notes:
                    session.warn("cache", note)
        if not rejected:
            break
        pictures = pictures.without(rejected)
    return (
        pictures,
        items,
        held_out,
        plan_steps(pictures, grid, config),
        cache if memory.cache_latents else None,
        held_out_cache,
    )


def build_network(config: RunConfig, model: Model, say: Say) -> LoraNetwork:
    """Put the LoRA in, as the run has it at its start."""
    weights = None
    conv = config.network.conv_dim is not None or config.network.dim_from_weights
    targets = model.lora_targets(conv=conv)
    if config.network.network_weights:
        path = Path(config.network.network_weights)
        header = read_header(path)
        weights = load_file(path)  # `check_start` has found it sound
        if is_peft(weights):
            weights = to_kohya(weights, header.metadata, model.trainable, targets, say)
        elif found := recognised(header.shapes):
            weights = in_kohya_names(weights, found, targets)
    network = LoraNetwork.attach(
        model.trainable,
        targets,
        network=config.network,
        rates=config.training.rates,
        weights=weights,
        generator_seed=derive(config.training.seed, "lora"),
        folds_alpha=model.reader.folds_alpha,
        say=say,
    )
    counts = ", ".join(f"{name} {count}" for name, count in network.module_counts().items())
    say(f"LoRA modules: {counts}; {sum(p.numel() for p in network.parameters()):,} parameters in fp32.")
    return network
