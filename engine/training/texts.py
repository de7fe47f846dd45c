"""Encodes the captions of a run before the first step, if it is configured or needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from engine.config import RunConfig
from engine.dataset.arithmetic import StepPlan
from engine.dataset.batches import run_captions
from engine.dataset.captions import CaptionRules
from engine.dataset.text_cache import TextCache
from engine.families.base import Model
from engine.training.batch_source import BatchSource
from engine.training.probes import EVERYDAY_PROMPTS, Probe
from engine.training.ranks import Ranks
from engine.training.session import Session
from engine.types import SampleRequest

TEXT_CACHE_LIMIT = 2 * 2**30
"""Bytes of encoded captions above which they are not cached in memory."""


def cache_texts(
    session: Session,
    config: RunConfig,
    batches: BatchSource,
    model: Model,
    probes: Sequence[Probe],
    requests: Sequence[SampleRequest],
    ranks: Ranks,
) -> None:
    """Fill the cache of encoded captions of `batches`, and set the text encoders that run in each step.

    All captions of the run are known beforehand, so that shuffling and dropout work with the cache.
    """
    cached = cached_encoders(config, model)
    batches.uncached_encoders = tuple(name for name in model.text_encoders if name not in cached)
    if not cached:
        return
    memory = config.memory
    captions = dict.fromkeys([*batches.all_captions(), ""])  # captions may be dropped later, see `missing_captions`
    captions.update(dict.fromkeys([*EVERYDAY_PROMPTS, *(caption for probe in probes for caption in probe.captions)]))
    with model.on_device("text_encoder"):
        with torch.no_grad():
            size = sum(tensor.nbytes for tensor in model.encode_text([""], cached).values()) * len(captions)
        on_disk, number = memory.cache_text_encoder_outputs_to_disk, f"{len(captions)} different captions of this run"
        if size > TEXT_CACHE_LIMIT and not on_disk:
            if not model.cached_only_encoders:
                session.log(
                    f"Captions are encoded in each step: the {number} would take {size / 2**30:.1f} GiB in the cache. "
                    "The text encoder still is not trained."
                )
                batches.uncached_encoders = tuple(model.text_encoders)
                return
            on_disk = True
            session.log(f"Text outputs are cached on disk: the {number} take {size / 2**30:.1f} GiB.")
        # A family may read only parts of the weights for its key.
        key = f"{model.text_key} {cached}{model.merged_key}"
        cache = TextCache(memory.cache_root / "texts" if on_disk else None, key)
        encode = partial(model.encode_text, encoders=cached)
        progress = session.progress("cache", "captions")
        shared = ranks if ranks.size > 1 else None
        report = cache.build(captions, encode, captions_at_once(model), progress, session.should_stop, shared)
        session.raise_if_stopped()
        model.precompute_prompts([text for request in requests for text in (request.prompt, request.negative_prompt)])
    for note in report.notes:
        session.warn("cache", note)
    batches.texts = cache
    model.free_encoders(cached)


def missing_captions(batches: BatchSource, rules: CaptionRules, plan: StepPlan, step: int) -> int:
    """How many captions of the updates after `step` are not cached, with changed rules or a changed length."""
    if batches.texts is None:
        return 0
    seed, raw = batches.config.training.seed, batches.caches_raw_captions
    captions = run_captions(batches.items, rules, plan, seed, first=step, raw=raw)
    return sum(not batches.texts.has(caption) for caption in captions)


def captions_at_once(model: Model) -> int:
    """Batch size for caching captions: a large encoder (T5) is busy with one, and short of memory."""
    return 1 if model.cached_only_encoders else 8


def cached_encoders(config: RunConfig, model: Model) -> tuple[str, ...]:
    """The text encoders whose outputs are cached: those that are not trained, if caching is configured."""
    if not config.memory.cache_text_encoder_outputs:
        return ()
    network = config.network
    trained = set(model.trainable) if config.training.rates[1] and not network.network_train_unet_only else set()
    return tuple(name for name in model.text_encoders if name not in trained)
