"""Kohya's arithmetic from images to steps, and the same as text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.config.schema import RunConfig
from engine.config.training import MAX_STEPS, TrainingTable
from engine.dataset.buckets import BucketGrid, Placement, Size
from engine.dataset.captions import CaptionRules
from engine.dataset.images import Scan, Subset
from engine.dataset.items import Item
from engine.errors import DataError, UsageError
from engine.text import listing, plural, printable


@dataclass(frozen=True)
class SubsetCount:
    """Images and repeats of one training or regularization folder."""

    name: str
    images: int
    num_repeats: int
    is_reg: bool

    @property
    def items(self) -> int:
        """Images with repeats."""
        return self.images * self.num_repeats


@dataclass(frozen=True)
class StepPlan:
    """The length of the run and how it is computed."""

    subsets: tuple[SubsetCount, ...]
    num_train_images: int
    """With repeats, without regularization."""
    num_reg_images: int
    """With their own repeats, before they are balanced."""
    items: int
    """Images seen in an epoch: training and balanced regularization."""
    buckets: tuple[tuple[int, int, int], ...]
    """(width, height, items), sorted."""
    batch_size: int
    """Of the run; a dataset may have its own."""
    num_processes: int
    gradient_accumulation_steps: int
    batches_per_epoch: int
    """Over all processes."""
    updates_per_epoch: int
    epochs: int
    max_train_steps: int
    by_epochs: bool
    """The length was given in epochs."""
    num_enlarged: int
    """Images enlarged in spite of `bucket_no_upscale`: a side is below one bucket step."""
    mean_img_ar_error: float
    """Mean of |bucket ratio - image ratio| over the images, as in Kohya's metadata."""
    batch_sizes: tuple[int, ...] = ()
    """All that occur, sorted."""
    num_short_batches: int = 0
    """Batches that are not full: at most one per bucket."""
    shift: int = 0
    """Added to an update's number to place it in an epoch; not 0 if epochs had another length before."""

    def place(self, step: int) -> tuple[int, int]:
        """Epoch, from 1, and update inside it, from 0, of the update with the 0-based number `step`."""
        epoch, inside = divmod(step + self.shift, self.updates_per_epoch)
        return epoch + 1, inside

    def continued(self, step: int, updates_per_epoch: int, shift: int) -> StepPlan:
        """This plan after `step` updates of a plan with `updates_per_epoch` and `shift`: it continues at the same
        fraction of the same epoch, rounded down, but never repeats an epoch's end. A length in epochs stays one."""
        before = step + shift
        after = before * self.updates_per_epoch // updates_per_epoch
        if after % self.updates_per_epoch == 0 and before % updates_per_epoch:
            after += 1
        moved = after - step
        steps = self.epochs * self.updates_per_epoch - moved if self.by_epochs else self.max_train_steps
        epochs = self.epochs if self.by_epochs else -(-(steps + moved) // self.updates_per_epoch)
        return replace(self, shift=moved, max_train_steps=steps, epochs=epochs)

    def of_length(self, training: TrainingTable) -> StepPlan:
        """This plan with the length from `training`; epoch boundaries stay.

        Raises:
            UsageError: the epochs make more steps than a run can have.
        """
        if training.max_train_epochs is None:
            steps = training.max_train_steps
            epochs = -(-(steps + self.shift) // self.updates_per_epoch)
            return replace(self, max_train_steps=steps, epochs=epochs, by_epochs=False)
        steps = training.max_train_epochs * self.updates_per_epoch - self.shift
        require_length(training.max_train_epochs, self.updates_per_epoch, steps)
        return replace(self, max_train_steps=steps, epochs=training.max_train_epochs, by_epochs=True)

    def lines(self) -> list[str]:
        """The arithmetic as text."""
        lines = []
        for subset in self.subsets:
            kind = "regularization image" if subset.is_reg else "image"
            total = plural(subset.items, "item") if not subset.is_reg else str(subset.items)
            line = f"{plural(subset.images, kind)} × {plural(subset.num_repeats, 'repeat')} = {total}"
            lines.append(f"{subset.name}: {line}" if len(self.subsets) > 1 else line)
        reg_items = self.items - self.num_train_images
        if self.num_reg_images:
            if reg_items > self.num_reg_images:
                lines.append(f"regularization: {self.num_reg_images} cycled to match {reg_items} training items")
            elif reg_items < self.num_reg_images:
                lines.append(
                    f"regularization: the first {reg_items} of {self.num_reg_images} used, to match the training items"
                )
            lines.append(f"{self.num_train_images} + {reg_items} = {plural(self.items, 'item')}")
        lines.append(
            f"{plural(self.items, 'item')} in {plural(len(self.buckets), 'bucket')} → "
            f"{plural(self.batches_per_epoch, 'batch')} of {listing([str(size) for size in self.batch_sizes])}"
            f"{f' ({self.num_short_batches} not full)' if self.num_short_batches else ''} → "
            f"{plural(self.updates_per_epoch, 'step')} an epoch{self._divisors()}"
        )
        if self.num_processes > 1:
            lines.append(self._of_processes())
        if self.by_epochs:
            lines.append(
                f"{plural(self.epochs, 'epoch')} × {plural(self.updates_per_epoch, 'step')} = "
                f"{plural(self.max_train_steps, 'step')}"
            )
        else:
            epochs, rest = divmod(self.max_train_steps, self.updates_per_epoch)
            tail = f" (the last one ends after {plural(rest, 'step')})" if rest else ""
            lines.append(f"{plural(self.max_train_steps, 'step')} = {plural(epochs + bool(rest), 'epoch')}{tail}")
        if self.num_enlarged:
            lines.append(
                f"{plural(self.num_enlarged, 'image')} narrower than one bucket step enlarged, in spite of "
                "dataset.bucket_no_upscale"
            )
        return lines

    def _of_processes(self) -> str:
        """The images of a step, and what they mean for the learning rate (Malladi et al. 2022, "On the SDEs and Scaling
        Rules for Adaptive Gradient Algorithms": Adam's rate grows with the square root of the batch)."""
        size, count, times = self.batch_size, self.num_processes, self.gradient_accumulation_steps
        parts = [plural(count, "process"), str(size), *([str(times)] if times > 1 else [])]
        return (
            f"Each step trains up to {count * size * times} images ({' × '.join(parts)}). A learning rate that was "
            f"chosen for one process is safe here, but learns less per epoch; Adam allows up to {math.sqrt(count):.2g} "
            "times that rate."
        )

    def _divisors(self) -> str:
        parts = []
        if self.num_processes > 1:
            parts.append(f"{self.num_processes} processes")
        if self.gradient_accumulation_steps > 1:
            parts.append(f"{self.gradient_accumulation_steps} batches a step")
        return f" ({', '.join(parts)})" if parts else ""


def make_items(scan: Scan, grid: BucketGrid) -> list[Item]:
    """The items of an epoch, dataset by dataset: training images with repeats, then as many regularization images.

    Regularization images join one by one with their repeats until they are as many as the training items of their
    dataset; if all of them are too few, they are cycled one at a time, if too many, the tail is left out (facts:
    sd-scripts).
    """
    items: list[Item] = []
    for number in sorted({subset.dataset for subset in scan.subsets}):
        training: list[Item] = []
        regularization: list[Item] = []
        own_repeats: list[int] = []
        for index, subset in enumerate(scan.subsets):
            if subset.is_validation or subset.dataset != number:
                continue
            subset_items = _subset_items(subset, index, grid)
            if subset.is_reg:
                regularization += subset_items
                own_repeats += [subset.num_repeats] * len(subset_items)
            else:
                training += [item for item in subset_items for _ in range(subset.num_repeats)]
        items += training
        for entry, count in zip(regularization, balance(own_repeats, len(training)), strict=True):
            items += [entry] * count
    return items


def _subset_items(subset: Subset, index: int, grid: BucketGrid) -> list[Item]:
    """Each image of a subset once."""
    own = grid.of(subset.table)
    exact = any(image.kohya_exact for image in subset.images)
    rules = None if subset.table is None else CaptionRules.from_table(subset.table, kohya_exact=exact)
    placements: dict[Size, Placement] = {}
    items = []
    for image in subset.images:
        size = (image.width, image.height)
        placement = placements.get(size) or placements.setdefault(size, own.place(*size))
        shared = (image, index, placement, subset.is_reg, subset.text(image))
        items.append(Item(*shared, subset.table, rules, subset.dataset, subset.batch_size))
    return items


def balance(repeats: list[int], target: int) -> list[int]:
    """Repeats of each regularization image that sum up to `target` or a little more."""
    balanced = [0] * len(repeats)
    total = 0
    for index, own in enumerate(repeats):
        if total >= target:
            break
        balanced[index] = own
        total += own
    while repeats and total < target:
        for index in range(len(balanced)):
            if total >= target:
                break
            balanced[index] += 1
            total += 1
    return balanced


def validation_items(scan: Scan, grid: BucketGrid) -> list[Item]:
    """Validation images, each once, never mirrored."""
    items = []
    for index, subset in enumerate(scan.subsets):
        if subset.is_validation:
            table = subset.table and subset.table.model_copy(update={"flip_aug": False})
            items += _subset_items(replace(subset, table=table), index, grid)
    return items


def mean_ar_error(items: Sequence[Item]) -> float:
    """Mean of |bucket ratio - image ratio| over the images of items, each counted once."""
    used = {item.image.path: item for item in items}.values()
    errors = [_ratio(item.placement.bucket) - _ratio((item.image.width, item.image.height)) for item in used]
    return sum(map(abs, errors)) / len(errors)


def _ratio(size: Size) -> float:
    return size[0] / size[1]


def require_length(epochs: int | None, updates_per_epoch: int, steps: int) -> None:
    """Refuse more steps than a run can have.

    Raises:
        UsageError: with the number of steps.
    """
    if steps > MAX_STEPS:
        raise UsageError(
            f"training.max_train_epochs: {epochs} epochs of {plural(updates_per_epoch, 'step')} are {steps} steps; a "
            f"run can have up to {MAX_STEPS}.",
            "Choose fewer epochs.",
            code="length-too-long",
        )


def plan_steps(scan: Scan, grid: BucketGrid, config: RunConfig) -> StepPlan:
    """Count items, batches, steps and epochs (facts: sd-scripts, train_network.py).

    Raises:
        DataError: there are no images to train on.
        UsageError: the epochs make more steps than a run can have.
    """
    training = config.training
    items = make_items(scan, grid)
    if not items:
        raise DataError("There are no images to train on.", "Give a folder with images.", code="no-images")
    counts = Counter(item.placement.bucket for item in items)
    sizes = sorted({item.batch_size or training.train_batch_size for item in items})
    bucket_items = Counter(
        (item.dataset, item.placement.bucket, item.batch_size or training.train_batch_size) for item in items
    )
    batches = sum(-(-count // size) for (*_, size), count in bucket_items.items())
    updates = -(-batches // (training.processes * training.gradient_accumulation_steps))
    by_epochs = training.max_train_epochs is not None
    steps = training.max_train_epochs * updates if training.max_train_epochs is not None else training.max_train_steps
    require_length(training.max_train_epochs, updates, steps)
    used = {item.image.path: item for item in items}.values()
    enlarged = sum(
        1 for item in used if item.placement.resized[0] > item.image.width and grid.of(item.table).no_upscale
    )
    subsets = tuple(
        SubsetCount(printable(subset.path.name), len(subset.images), subset.num_repeats, subset.is_reg)
        for subset in scan.subsets
        if not subset.is_validation
    )
    return StepPlan(
        subsets=subsets,
        num_train_images=sum(subset.items for subset in subsets if not subset.is_reg),
        num_reg_images=sum(subset.items for subset in subsets if subset.is_reg),
        items=len(items),
        buckets=tuple((width, height, counts[width, height]) for width, height in sorted(counts)),
        batch_size=training.train_batch_size,
        batch_sizes=tuple(sizes),
        num_short_batches=sum(1 for (*_, size), count in bucket_items.items() if count % size),
        num_processes=training.processes,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        batches_per_epoch=batches,
        updates_per_epoch=updates,
        epochs=-(-steps // updates),
        max_train_steps=steps,
        by_epochs=by_epochs,
        num_enlarged=enlarged,
        mean_img_ar_error=mean_ar_error(items),
    )
