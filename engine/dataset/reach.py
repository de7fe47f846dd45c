"""The items that a run uses before it ends: only their latents are cached."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from engine.config import RunConfig
from engine.config.changes import stages
from engine.dataset.arithmetic import StepPlan
from engine.dataset.batches import epoch_batches, is_flipped
from engine.dataset.items import Item

Direction = tuple[Item, bool]
"""An item, and whether it is mirrored."""
PROBED = 4
"""Most training images that the weights are measured on."""
MOST_COMPARED = 300
"""Most training images that samples are compared with."""


def last_update(config: RunConfig, plan: StepPlan) -> int:
    """The number of updates after which the run ends, with the scheduled changes of its length.

    Args:
        config: with its scheduled changes.
        plan: of the run; its length is not used.
    """
    parts = list(stages(config))
    for (begin, now), (following, _) in pairwise(parts):
        end = plan.of_length(now.training).max_train_steps
        if end < following:
            return max(begin, end)
    return plan.of_length(parts[-1][1].training).max_train_steps


def reached(items: Sequence[Item], config: RunConfig, plan: StepPlan, first: int, end: int) -> list[Direction] | None:
    """The items and directions of the updates from `first` to before `end`, counted from 0.

    A function of the seed, like the order itself. None if the updates include a complete epoch, which uses all items.

    Args:
        items: of an epoch.
        plan: for the updates per epoch and the start of the first one; its length is not used.
    """
    length = plan.updates_per_epoch
    if -(-(first + plan.shift) // length) * length + length <= end + plan.shift:
        return None
    seed, share = config.training.seed, plan.num_processes * plan.gradient_accumulation_steps
    used: dict[tuple[int, bool], None] = {}
    order: dict[int, list[list[int]]] = {}
    for step in range(first, end):
        epoch, inside = plan.place(step)
        if epoch not in order:
            order[epoch] = epoch_batches(items, config.training.train_batch_size, seed, epoch)
        batches = order[epoch]
        slots = -(-len(batches) // plan.num_processes) * plan.num_processes
        for number in range(inside * share, min((inside + 1) * share, slots)):
            for index in batches[number % len(batches)]:
                table = items[index].table or config.dataset
                used[index, table.flip_aug and is_flipped(seed, epoch, index)] = None
    return [(items[index], flip) for index, flip in used]


def both_directions(items: Sequence[Item], config: RunConfig) -> list[Direction]:
    """The items as they are, and also mirrored with `flip_aug`."""
    return [
        (item, flip)
        for item in items
        for flip in ((False, True) if (item.table or config.dataset).flip_aug else (False,))
    ]


def compares_samples(config: RunConfig) -> bool:
    """Whether samples are generated and compared with training images."""
    sampling = config.sampling
    generated = bool(sampling.sample_every_n_steps or sampling.sample_every_n_epochs) and bool(sampling.sample_prompts)
    return generated and config.training.max_check_share > 0


def most_latents(config: RunConfig, plan: StepPlan) -> int:
    """Most latents that a run caches: those of all images, or if it ends within the first epoch, of the images that it
    trains on, compares with and is measured on, each with the others of its encoder batch."""
    directions = 2 if config.dataset.flip_aug else 1
    images = sum(subset.images for subset in plan.subsets) * directions
    if plan.max_train_steps >= plan.updates_per_epoch:
        return images
    size = max(plan.batch_sizes, default=plan.batch_size)
    trained = plan.max_train_steps * plan.num_processes * plan.gradient_accumulation_steps * size
    compared = MOST_COMPARED * directions if compares_samples(config) else 0
    return min(images, (trained + compared + PROBED) * config.memory.vae_batch_size)
