"""The order of training: pure functions of (seed, epoch), so that a resume needs only two numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.dataset.buckets import Size
from engine.dataset.captions import CaptionRules, caption_rng, compose
from engine.dataset.items import Item

if TYPE_CHECKING:
    from engine.dataset.arithmetic import StepPlan


def epoch_batches(items: Sequence[Item], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices into `items`, in batches of one bucket of one dataset each.

    Within a bucket items are shuffled and cut into batches, the last one short; then the batches of all buckets are
    shuffled (facts: sd-scripts, BucketBatch). The same on every machine and Python.

    Args:
        batch_size: of items without their own.
        epoch: counted from 1.
    """
    rng = random.Random(f"order {seed} {epoch}")
    buckets: dict[tuple[int, Size], list[int]] = {}
    for index, item in enumerate(items):
        buckets.setdefault((item.dataset, item.placement.bucket), []).append(index)
    batches = []
    for bucket in sorted(buckets):
        indices = buckets[bucket]
        size = items[indices[0]].batch_size or batch_size
        rng.shuffle(indices)
        batches += [indices[start : start + size] for start in range(0, len(indices), size)]
    rng.shuffle(batches)
    return batches


def is_flipped(seed: int, epoch: int, index: int) -> bool:
    """Whether `flip_aug` mirrors an item in an epoch: half of them."""
    return random.Random(f"flip {seed} {epoch} {index}").random() < 0.5


def updates_before(plan: StepPlan, epoch: int, position: int) -> int:
    """Optimizer updates before the batch at `position` of `epoch` (from 1); batches go to the processes in turn."""
    share = plan.num_processes * plan.gradient_accumulation_steps
    return (epoch - 1) * plan.updates_per_epoch + position // share - plan.shift


def item_caption(
    item: Item, index: int, rules: CaptionRules, plan: StepPlan, *, seed: int, epoch: int, step: int, raw: bool = False
) -> str:
    """The caption of item `index` in an epoch after `step` updates.

    Args:
        raw: as Kohya's scripts cache it: the text of the file, without prefix, suffix and separators. It has no effect
            on captions that are shuffled or dropped, which the scripts refuse to cache.
    """
    if raw and not (item.rules or rules).is_refused_by_kohyas_cache:
        return item.text
    rng = caption_rng(seed, epoch, index)
    return compose(item.text, item.rules or rules, rng, epoch=epoch, step=step, max_train_steps=plan.max_train_steps)


def run_captions(
    items: Sequence[Item], rules: CaptionRules, plan: StepPlan, seed: int, *, first: int = 0, raw: bool = False
) -> list[str]:
    """Every caption that the run uses, each once, in the order of first use: the content of a text cache.

    Args:
        first: the first update (from 0) whose captions count; the last is the end of `plan`.
        raw: see `item_caption`.
    """
    if not any((item.rules or rules).varies for item in items):
        captions = (
            item_caption(item, i, rules, plan, seed=seed, epoch=1, step=0, raw=raw) for i, item in enumerate(items)
        )
        return list(dict.fromkeys(captions))
    seen: dict[str, None] = {}
    for epoch in range(max(1, plan.place(first)[0]), plan.epochs + 1):
        for position, batch in enumerate(epoch_batches(items, plan.batch_size, seed, epoch)):
            step = updates_before(plan, epoch, position)
            if step >= plan.max_train_steps:
                break
            if step < first:
                continue
            for index in batch:
                caption = item_caption(items[index], index, rules, plan, seed=seed, epoch=epoch, step=step, raw=raw)
                seen[caption] = None
    return list(seen)
