"""The captions of a run, encoded before the first step where that is asked for or needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from engine import paths
from engine.config import RunConfig
from engine.dataset.batches import Item
from engine.dataset.captions import deterministic
from engine.dataset.text_cache import TextCache
from engine.models.base import Model, SampleRequest
from engine.training.feed import Feed
from engine.training.session import Session

TEXT_CACHE_LIMIT = 2 * 2**30
"""Bytes of encoded captions above which they are not kept in memory."""


def cache_texts(
    session: Session,
    config: RunConfig,
    feed: Feed,
    model: Model,
    held_out: Sequence[Item],
    requests: Sequence[SampleRequest],
) -> None:
    """Fill the feed's cache of encoded captions, and name the text encoders that run in each step.

    All captions that the run will ever use are known beforehand: shuffling and dropout work with the cache.
    """
    cached = cached_encoders(config, model)
    feed.live = tuple(name for name in model.text_encoders if name not in cached)
    if not cached:
        return
    memory = config.memory
    captions = dict.fromkeys(feed.all_captions())
    captions.update(dict.fromkeys(deterministic(item.text, item.rules or feed.rules) for item in held_out))
    with model.present("text_encoder"):
        with torch.no_grad():
            size = sum(tensor.nbytes for tensor in model.encode_text([""], cached).values()) * len(captions)
        on_disk, told = memory.cache_text_encoder_outputs_to_disk, f"{len(captions)} different captions of this run"
        if size > TEXT_CACHE_LIMIT and not on_disk:
            if not model.apart:
                session.say(
                    f"Captions are encoded in each step: the {told} would take {size / 2**30:.1f} GiB in the cache. "
                    "The text encoder still is not trained."
                )
                feed.live = tuple(model.text_encoders)
                return
            on_disk = True
            session.say(f"Text outputs go to the disk: the {told} take {size / 2**30:.1f} GiB.")
        root = Path(memory.cache_dir) if memory.cache_dir else paths.user_cache()
        cache = TextCache(root / "texts" if on_disk else None, f"{model.text_key} {cached}")
        encode = partial(model.encode_text, encoders=cached)
        progress = session.progress("cache", "captions")
        report = cache.build(captions, encode, captions_at_once(model), progress, session.should_stop)
        session.stop_here()
        model.remember([text for request in requests for text in (request.prompt, request.negative_prompt)])
    for note in report.notes:
        session.warn("cache", note)
    feed.texts = cache
    model.let_go(cached)


def captions_at_once(model: Model) -> int:
    """Captions that are encoded together while caching: a large encoder is busy with one, and short of memory."""
    return 1 if model.apart else 8


def cached_encoders(config: RunConfig, model: Model) -> tuple[str, ...]:
    """The text encoders whose outputs are cached: those that are not trained, where caching is asked for."""
    network = config.network
    trained = set(model.trainable) if config.training.rates[1] and not network.network_train_unet_only else set()
    wanted = tuple(model.text_encoders) if config.memory.cache_text_encoder_outputs else ()
    return tuple(name for name in wanted if name not in trained)
