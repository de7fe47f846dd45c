"""Facts about a run for the metadata of its LoRA files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from engine import clock
from engine.adapters.dataset_metadata import BucketMetadata, SubsetMetadata
from engine.adapters.metadata import TrainingMetadata
from engine.config.change import Change, read_change
from engine.dataset.arithmetic import mean_ar_error
from engine.dataset.items import Item
from engine.runs.values import count
from engine.training.prepare import Prepared
from engine.training.train_state import TrainState

Hashes = tuple[str | None, str | None]


def training_facts(
    prepared: Prepared, state: TrainState, meta: Mapping[str, Any], hashes: tuple[Hashes, ...], epoch: int
) -> TrainingMetadata:
    """The facts of the current step.

    Args:
        meta: meta.json of the run.
        hashes: of the checkpoint, of a replaced VAE and of `ModelTable.merged`, as `model_hashes` gives them.
        epoch: 1-based.
    """
    plan, scan = state.plan, prepared.scan
    subsets = [
        SubsetMetadata(s.path, s.num_repeats, [s.text(p) for p in s.images], s.is_reg, s.dataset, s.spec, s.tags)
        for s in scan.subsets
        if not s.is_validation
    ]
    items, table = prepared.batches.items, state.config.dataset
    numbers = range(1 + max(subset.dataset for subset in subsets)) if table.dataset_config else ()
    return TrainingMetadata(
        recognition=prepared.recognition,
        session_id=count(meta.get("session_id"), 2**32) or 0,
        started_at=float(meta.get("started_at") or clock.now()),
        now=clock.now(),
        step=state.step,
        epoch=epoch,
        num_epochs=plan.epochs,
        max_train_steps=plan.max_train_steps,
        num_train_images=plan.num_train_images,
        num_reg_images=plan.num_reg_images,
        num_validation_images=sum(probe.is_validation for probe in prepared.probes),
        num_batches_per_epoch=plan.batches_per_epoch,
        mixed_precision=prepared.precision,
        optimizer=state.built.description,
        subsets=subsets,
        bucket_info=_buckets(items) if table.enable_bucket else None,
        datasets=[_buckets_of_dataset([item for item in items if item.dataset == number]) for number in numbers],
        model_hashes=hashes[0],
        vae_hashes=hashes[1],
        merged_hashes=[new for _, new in hashes[2:]],
        changes=_changes(prepared, state),
    )


def _changes(prepared: Prepared, state: TrainState) -> list[str]:
    """The changes made so far, after the values that their settings had at first."""
    applied = [read_change(text) for text in state.progress.applied]
    first = {change.key: Change(0, change.key, prepared.config.value(change.key)) for change in applied}
    return [str(change) for change in (*first.values(), *applied)]


def _buckets_of_dataset(items: Sequence[Item]) -> BucketMetadata | None:
    if not items:
        return None  # only regularization images, without images to regularize
    table = items[0].table
    return _buckets(items) if table is None or table.enable_bucket else None


def _buckets(items: Sequence[Item]) -> BucketMetadata:
    counts = Counter(item.placement.bucket for item in items)
    return BucketMetadata(sorted(counts.items()), mean_ar_error(items))
