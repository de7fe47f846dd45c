"""The largest batch, images and samples of a run, for its memory plan. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.dataset.arithmetic import StepPlan
    from engine.families.resolved import ResolvedRun

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class Workload:
    """The largest sizes of a run."""

    batch: Size
    """Image size of the largest batch."""
    images: int
    """Images in that batch."""
    encoded: Size
    """The largest image that the latent cache encodes, `memory.vae_batch_size` at once."""
    sample: Size | None
    """The largest sample; None: no samples."""
    guided: bool
    """Whether samples use classifier-free guidance, in one pass with and without the prompt."""
    validates: bool
    """Whether the validation loss is measured."""
    shapes: int = 1
    """Different batches, as CUDA graphs tell them apart: by image size, number of images, and batches of an update."""

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Workload:
        """From JSON, where tuples became lists."""
        values: dict[str, Any] = {}
        for key, value in stored.items():
            values[key] = tuple(value) if isinstance(value, list) else value
        return cls(**values)


def workload(run: ResolvedRun, steps: StepPlan | None) -> Workload:
    """The workload of a run.

    Args:
        steps: the run's step plan, with the images' sizes; None: images of the training resolution are assumed.

    Raises:
        UsageError: the resolution does not fit the model, or the prompt file cannot be read.
    """
    from engine.dataset.buckets import BucketGrid

    config, grid = run.config, BucketGrid.of_run(run)
    batch_size = config.training.train_batch_size
    largest = max((steps.batch_sizes if steps else ()) or (batch_size,))
    if steps is None:
        buckets = [
            (*size, batch_size) for size in grid.buckets or [_fitting(grid.resolution, run.recognition.multiple)]
        ]
    else:
        buckets = [(width, height, min(largest, items)) for width, height, items in steps.buckets]
    width, height, images = max(
        buckets, key=lambda bucket: (bucket[0] * bucket[1] * bucket[2], -abs(bucket[0] - bucket[1]))
    )
    encoded = max(
        ((bucket[0], bucket[1]) for bucket in buckets), key=lambda size: (size[0] * size[1], -abs(size[0] - size[1]))
    )
    sampling, dataset = config.sampling, config.dataset
    has_samples = sampling.sample_every_n_steps or sampling.sample_every_n_epochs
    requests = [prompt.request for prompt in run.prompts()] if has_samples else []
    sample = max(
        ((request.width, request.height) for request in requests), key=lambda size: size[0] * size[1], default=None
    )
    return Workload(
        batch=(width, height),
        images=images,
        encoded=encoded,
        sample=sample,
        guided=any(request.scale > 1 for request in requests),
        validates=bool(dataset.validation_data_dir or dataset.validation_split),
        shapes=len(buckets) if steps is None else _shapes(steps, largest),
    )


def _shapes(steps: StepPlan, batch_size: int) -> int:
    """A bucket has one more if its last batch is not full, and all have two numbers of batches in an update if the last
    update of an epoch has fewer."""
    shapes = sum(1 + (items > batch_size and items % batch_size > 0) for _, _, items in steps.buckets)
    uneven = -(-steps.batches_per_epoch // steps.num_processes) % steps.gradient_accumulation_steps
    return shapes * (2 if uneven else 1)


def _fitting(size: Size, multiple: int) -> Size:
    return max(multiple, size[0] // multiple * multiple), max(multiple, size[1] // multiple * multiple)
