"""Decides whether a run with memory.torch_compile = auto compiles its blocks."""

from __future__ import annotations

from engine.config import RunConfig
from engine.dataset.arithmetic import make_items, plan_steps
from engine.dataset.batches import epoch_batches
from engine.dataset.buckets import BucketGrid
from engine.dataset.images import Scan
from engine.families.base import Model
from engine.families.resolved import ResolvedRun
from engine.lowmem.compile_cache import keep_compiled
from engine.lowmem.compiled import why_broken, why_not
from engine.training.batch_source import BatchShape
from engine.training.exactness import device_abilities
from engine.types import Log


def with_compiling_decided(run: ResolvedRun, images: Scan, model: Model, precision: str, log: Log) -> RunConfig:
    """The settings of the run, memory.torch_compile "on" or "off".

    Args:
        precision: "no", "fp16" or "bf16".
        log: called with the decision, if it is left to the program.

    Raises:
        LoraSmithError: the images are not enough for a run.
    """
    config, device = run.config, model.placement.device
    if config.memory.torch_compile != "auto":
        return config
    reason = why_not(
        config.memory,
        device_abilities(device),
        half=precision != "no",
        updates=plan_steps(images, BucketGrid.of_run(run), config).max_train_steps,
        sizes=_shapes(run, images),
        has_tokens=not any(hasattr(block, "resnets") for block in model.blocks),
    )
    if not reason:
        keep_compiled(log)
        reason = why_broken(device)
    if reason:
        log(f"Blocks are not compiled: {reason}.")
    return config.changed(memory={"torch_compile": "off" if reason else "on"})


def _shapes(run: ResolvedRun, images: Scan) -> set[BatchShape]:
    """Of the batches of an epoch, which all epochs have."""
    items, training = make_items(images, BucketGrid.of_run(run)), run.config.training
    batches = epoch_batches(items, training.train_batch_size, training.seed, epoch=1)
    return {(items[batch[0]].placement.bucket, len(batch)) for batch in batches}
