"""Sets up a run before its first step: settings, images, model, caches, LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from engine.adapters.base_weights import load_base
from engine.adapters.kinds.registry import trained_kind
from engine.adapters.network import AdapterNetwork
from engine.adapters.selection import Selector, require_layers, select_of_run
from engine.adapters.start import check_base_weights, check_start
from engine.adapters.start_tensors import start_tensors
from engine.adapters.written_names import check_key_format
from engine.config import RunConfig
from engine.config.changes import at_the_end, stages
from engine.config.prompts import read_prompts
from engine.dataset.arithmetic import StepPlan, make_items, plan_steps, validation_items
from engine.dataset.buckets import BucketGrid
from engine.dataset.captions import CaptionRules
from engine.dataset.digests import FileDigests
from engine.dataset.fitted import FittedImages
from engine.dataset.images import Scan
from engine.dataset.items import Item
from engine.dataset.latents import LatentCache
from engine.dataset.thumbnail import thumbnail
from engine.estimate.disk import estimate, latent_bytes, latents_on_disk
from engine.families.base import Model
from engine.families.registry import family_named
from engine.families.resolved import ResolvedRun
from engine.hardware import choose_precision, compute_dtype
from engine.lowmem.settings import apply_memory_settings
from engine.models.device import chosen_gpu
from engine.models.loading import DTYPES
from engine.runs.states import SavedState, newest_state
from engine.text import size_text
from engine.training.batch_source import BatchSource
from engine.training.compiling import with_compiling_decided
from engine.training.exactness import set_determinism
from engine.training.group import common_precision, gathered, join
from engine.training.groups import trained_targets
from engine.training.host_memory import keep_freed_memory
from engine.training.inputs import check_inputs
from engine.training.latents import LatentEncoder
from engine.training.needed import needed_latents
from engine.training.optimizers import check_optimizer
from engine.training.probes import Probe, choose_probes
from engine.training.ranks import Ranks
from engine.training.run_reader import RunReader
from engine.training.schedules import check_schedule
from engine.training.seeds import derive
from engine.training.session import PhasePeaks, Session
from engine.training.texts import cache_texts
from engine.types import Log, Recognition
from engine.world import own_world


@dataclass(frozen=True)
class Prepared:
    """The parts of a run as they are at its start; `TrainState` has the current settings and length."""

    config: RunConfig
    recognition: Recognition
    scan: Scan
    plan: StepPlan
    model: Model
    network: AdapterNetwork
    batches: BatchSource
    latents: LatentEncoder | None
    """Fills the cache of latents that `batches` reads; None if latents are not cached."""
    probes: Sequence[Probe]
    probe_latents: LatentCache
    """Of the probes' images, never mirrored."""
    accelerator: Accelerator
    ranks: Ranks
    precision: str
    inputs: str
    """Digest of the run's inputs: see `engine.training.inputs`."""

    @property
    def uses_autocast(self) -> bool:
        """See `uses_autocast`."""
        return uses_autocast(self.config, self.precision)

    @property
    def layer_dtype(self) -> torch.dtype | None:
        """What the layers compute in; None: autocast decides."""
        return None if self.uses_autocast else DTYPES[compute_dtype(self.precision)]

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which the model computes."""
        return self.accelerator.autocast() if self.uses_autocast else nullcontext()


def prepare(session: Session, reader: RunReader | None = None) -> Prepared:
    """Read, check, load and cache; logs every decision with its reason.

    Args:
        reader: of the run, if it was begun before.

    Raises:
        LoraSmithError: an error that the user has to fix.
        Stopped: a stop was requested meanwhile.
    """
    if reader is None:
        with RunReader(session.run, is_main=session.is_main) as reader:
            return prepare(session, reader)
    run = _resolve(session, reader)
    config: RunConfig = run.config
    recognition = run.recognition
    flags = run.family.spec.prompt_flags
    prompts = [prompt for _, stage in stages(config) for prompt in read_prompts(stage, lambda _: None, flags)]
    accelerator, precision = _accelerator(config, session)
    ranks = Ranks(accelerator)
    _use_device(session, config, accelerator.device)
    with session.phase("load"):
        reader.scanned.wait(session, session.progress("load", "images"))
        inputs = check_inputs(session, reader, recognition.path, accelerator.device)
        scanned, fitted = reader.usable.wait(session, session.progress("load", "images"))
        model = _load(session, config, recognition, str(accelerator.device), precision)
        config = with_compiling_decided(run, scanned, model, precision, session.log)
        apply_memory_settings(model, config.memory, session.log, draws=config.network.draws)
        session.raise_if_stopped()
    state = newest_state(session.run.checkpoints)
    with session.phase("cache"):
        images = _latents(session, run, scanned, model, reader.digests, fitted, state, ranks)
        fitted.free()
    for line in [*images.scan.lines(), *images.plan.lines()]:
        session.log(line)
    plan = _continued(images.plan, state)
    _report_place(plan, state, session.log)
    _check_disk(session, run, plan.of_length(at_the_end(config).training))
    batches = _batches(run, images, plan, model, accelerator)
    with session.phase("cache"):
        requests = [prompt.request for prompt in prompts]
        cache_texts(session, config, batches, model, images.probes, requests, ranks)
        place_for_training(model, texts=bool(batches.uncached_encoders), latents=images.latents is None)
    network = build_network(config, model, session.log)
    return Prepared(
        config=config,
        recognition=model.recognition,
        scan=images.scan,
        plan=plan,
        model=model,
        network=network,
        batches=batches,
        latents=images.latents,
        probes=images.probes,
        probe_latents=images.probe_latents,
        accelerator=accelerator,
        ranks=ranks,
        precision=precision,
        inputs=inputs(),
    )


def _use_device(session: Session, config: RunConfig, device: torch.device) -> None:
    if device.type == "cuda":
        session.peaks = PhasePeaks.of(device)
    else:
        keep_freed_memory()
    if config.memory.num_cpu_threads_per_process:
        torch.set_num_threads(config.memory.num_cpu_threads_per_process)


def _resolve(session: Session, reader: RunReader) -> ResolvedRun:
    """Report and check the settings, before anything large is loaded."""
    run = reader.resolved.wait(session)
    session.recognition = run.recognition
    for note in [*run.recognition.reasons, *run.notes]:
        session.log(note)
    warning, notes = _check_settings(run)
    if warning:
        session.warn("optimizer", warning)
    for note in notes:
        session.log(note)
    return run


def _check_settings(run: ResolvedRun) -> tuple[str, list[str]]:
    """Refuse wrong settings.

    Returns:
        What may be wrong with the optimizer, and sentences about the LoRA files read and written.
    """
    config = run.config
    warning = check_optimizer(config.training)
    check_schedule(config.training)
    if config.saving.metadata_thumbnail:
        thumbnail(config.saving.metadata_thumbnail)
    notes = check_key_format(config, run.family.spec)
    check_base_weights(config, run.family.spec.lora_base)
    notes += check_start(config, run.family)
    select_of_run(run)
    return warning, notes


def uses_autocast(config: RunConfig, precision: str) -> bool:
    """Whether the training computes under autocast. A base in half precision needs it only to round where Kohya's
    scripts do: normalisation in float32, its weights cast each time.

    Args:
        precision: "no", "fp16" or "bf16".
    """
    return precision != "no" and config.training.kohya_exact


def place_for_training(model: Model, *, texts: bool, latents: bool) -> None:
    """Move the parts that every step needs to the device, and free the memory that caching took.

    Args:
        texts: whether steps encode captions.
        latents: whether steps encode images.
    """
    model.acquire("denoiser")
    if texts:
        model.acquire("text_encoder")
    if latents:
        model.acquire("vae")
    if model.placement.device.type == "cuda":
        torch.cuda.empty_cache()


def _load(session: Session, config: RunConfig, recognition: Recognition, device: str, precision: str) -> Model:
    """The model in the host's memory, its weights in the compute dtype."""
    family = family_named(recognition.family)
    return load_base(family, config, recognition, device, compute_dtype(precision), session.log)


def _continued(plan: StepPlan, state: SavedState | None) -> StepPlan:
    """`plan` for a run that continues from `state`: if an epoch has another number of updates now, it continues at the
    same share of the same epoch."""
    place, step = (state.value("place"), state.step) if state else (None, None)
    if not place or step is None:
        return plan
    return plan.continued(step, place["updates_per_epoch"], place["shift"])


def _report_place(plan: StepPlan, state: SavedState | None, log: Log) -> None:
    """Report where a run continues if the number of updates in an epoch changed."""
    if plan.shift and state is not None and state.step is not None:
        epoch, inside = plan.place(state.step)
        log(
            f"An epoch had another number of steps before: the run continues at step {inside + 1} of "
            f"{plan.updates_per_epoch} in epoch {epoch}, and ends after step {plan.max_train_steps}."
        )


def _check_disk(session: Session, run: ResolvedRun, plan: StepPlan) -> None:
    prompts = run.config.sampling.sample_prompts
    need = estimate(run, plan, len(prompts) if isinstance(prompts, list) else 4)
    if warning := need.check(session.run.path):
        session.warn("disk", warning)


def _accelerator(config: RunConfig, session: Session) -> tuple[Accelerator, str]:
    world = own_world()
    gpu = chosen_gpu(config.memory.device, world.local_rank if world.size > 1 else None)
    if gpu is not None:
        set_determinism(config.memory.deterministic)
    choice = choose_precision(config.memory.mixed_precision, gpu)
    join(world)
    precision = common_precision(gathered(choice.value, world))
    differs = precision != choice.value
    session.log(f"Precision: {f'{precision}, which every GPU of this run can' if differs else choice.text}.")
    return Accelerator(mixed_precision=precision, cpu=gpu is None), precision


@dataclass(frozen=True)
class _Images:
    """The images of a run with their latents."""

    scan: Scan
    items: list[Item]
    probes: list[Probe]
    plan: StepPlan
    latents: LatentEncoder | None
    probe_latents: LatentCache


def _latents(
    session: Session,
    run: ResolvedRun,
    images: Scan,
    model: Model,
    digests: FileDigests,
    fitted: FittedImages,
    state: SavedState | None,
    ranks: Ranks,
) -> _Images:
    """Cache the latents; images that cannot be decoded are left out and the plan is made again without them.

    Args:
        state: the saved state that the run continues from.
    """
    config, grid = run.config, BucketGrid.of_run(run)
    memory = config.memory
    plan = plan_steps(images, grid, config)
    on_disk = latents_on_disk(run, plan)
    if on_disk and not memory.cache_latents_to_disk:
        size = size_text(latent_bytes(run, plan))
        session.log(f"Latents are cached on disk: {size} are more than a quarter of this machine's memory.")
    directory = memory.cache_root / "latents" if on_disk else None
    key = "" if directory is None else model.vae_key  # reads all of its weights
    cache = LatentCache(directory, key, config.dataset, digests, fitted)
    encoder = LatentEncoder(session, model, cache, memory.vae_batch_size)
    probe_encoder = LatentEncoder(session, model, cache.unmirrored(), memory.vae_batch_size)
    rules = CaptionRules.from_config(config)
    while True:
        items = make_items(images, grid)
        probes = choose_probes(rules, validation_items(images, grid), items)
        plan = plan_steps(images, grid, config)
        rejected = []
        if memory.cache_latents:
            directions = needed_latents(config, items, probes, _continued(plan, state), state)
            rejected += encoder.build(items, directions, ranks=ranks).rejected
            session.raise_if_stopped()
        if probes:
            rejected += probe_encoder.build([probe.item for probe in probes]).rejected
            session.raise_if_stopped()
        if not rejected:
            return _Images(images, items, probes, plan, encoder if memory.cache_latents else None, probe_encoder.cache)
        images = images.without(rejected)


def _batches(run: ResolvedRun, images: _Images, plan: StepPlan, model: Model, accelerator: Accelerator) -> BatchSource:
    """This process's share of the batches; `cache_texts` adds the captions later."""
    latents = None if images.latents is None else images.latents.cache
    return BatchSource(
        run.config,
        images.items,
        plan,
        model,
        accelerator.device,
        latents,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
        caches_raw_captions=_caches_raw_captions(run.written),
    )


def _caches_raw_captions(written: RunConfig) -> bool:
    """Whether captions are cached as Kohya's scripts do, which is as they were read. It takes the settings as written,
    as the scripts would: a family may cache texts that the scripts encode in each step."""
    memory = written.memory
    cached = memory.cache_text_encoder_outputs or memory.cache_text_encoder_outputs_to_disk
    return written.training.kohya_exact and cached


def build_network(config: RunConfig, model: Model, log: Log) -> AdapterNetwork:
    """Attach the adapters, with the weights that the run starts from."""
    weights = None
    kind = trained_kind(config.network)
    selector = Selector(config, family_named(model.recognition.family))
    conv = selector.wants_convolutions
    targets = [*model.lora_targets(conv=conv), *filter(selector.asks_for, model.outer_targets())]
    if config.network.train_norm:
        targets += model.norm_targets(conv=conv)
    if config.network.network_weights:
        path = Path(config.network.network_weights).expanduser()
        base = family_named(model.recognition.family).spec.lora_base
        weights = start_tensors(path, kind, base, targets, model.trainable, log)
    selection = selector.select(trained_targets(targets, config, log))
    for note in selection.notes():
        log(note)
    require_layers(selection)
    network = AdapterNetwork.attach(
        kind,
        model.trainable,
        [choice.target for choice in selection.choices],
        network=config.network,
        selection=selection,
        weights=weights,
        generator_seed=derive(config.training.seed, "lora"),
        folds_alpha=model.reader.folds_alpha or config.saving.key_format == "diffusers",
        log=log,
    )
    counts = ", ".join(f"{name} {count}" for name, count in network.module_counts().items())
    name = kind.trained_name(config.network)
    log(f"{name} modules: {counts}; {sum(p.numel() for p in network.parameters()):,} parameters in fp32.")
    return network
