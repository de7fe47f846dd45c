"""What the metadata of a LoRA file needs to know of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine import clock
from engine.adapters.dataset_metadata import BucketFacts, SubsetFacts
from engine.adapters.metadata import TrainingFacts
from engine.dataset.arithmetic import mean_ar_error
from engine.dataset.batches import Item
from engine.runs.values import count

if TYPE_CHECKING:
    from engine.training.trainer import Trainer

Hashes = tuple[str | None, str | None]


def training_facts(trainer: Trainer, hashes: tuple[Hashes, Hashes], epoch: int) -> TrainingFacts:
    """The facts of the current step.

    Args:
        hashes: of the checkpoint and of a replaced VAE, as `model_hashes` gives them.
        epoch: 1-based.
    """
    plan, scan, meta = trainer.plan, trainer.prepared.scan, trainer.session.run.meta
    subsets = [
        SubsetFacts(s.path, s.num_repeats, [s.text(p) for p in s.pictures], s.is_reg, s.dataset, s.spec, s.tags)
        for s in scan.subsets
        if not s.is_validation
    ]
    items, table = trainer.feed.items, trainer.config.dataset
    numbers = range(1 + max(subset.dataset for subset in subsets)) if table.dataset_config else ()
    return TrainingFacts(
        recognition=trainer.prepared.recognition,
        session_id=count(meta.get("session_id"), 2**32) or 0,
        started_at=float(meta.get("started_at") or clock.now()),
        now=clock.now(),
        step=trainer.step,
        epoch=epoch,
        num_epochs=plan.epochs,
        max_train_steps=plan.max_train_steps,
        num_train_images=plan.num_train_images,
        num_reg_images=plan.num_reg_images,
        num_validation_images=len(trainer.prepared.held_out),
        num_batches_per_epoch=plan.batches_per_epoch,
        mixed_precision=trainer.prepared.precision,
        optimizer=trainer.built.description,
        subsets=subsets,
        bucket_info=_buckets(items) if table.enable_bucket else None,
        datasets=[_buckets_of_dataset([item for item in items if item.dataset == number]) for number in numbers],
        model_hashes=hashes[0],
        vae_hashes=hashes[1],
    )


def _buckets_of_dataset(items: Sequence[Item]) -> BucketFacts | None:
    if not items:
        return None  # only regularization pictures, and nothing that they could regularize
    table = items[0].table
    return _buckets(items) if table is None or table.enable_bucket else None


def _buckets(items: Sequence[Item]) -> BucketFacts:
    counts = Counter(item.placement.bucket for item in items)
    return BucketFacts(sorted(counts.items()), mean_ar_error(items))
