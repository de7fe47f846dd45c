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
    if steps is None:
        buckets = [
            (*size, batch_size) for size in grid.buckets or [_fitting(grid.resolution, run.recognition.multiple)]
        ]
    else:
        largest = max(steps.batch_sizes or (batch_size,))
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
    )


def _fitting(size: Size, multiple: int) -> Size:
    return max(multiple, size[0] // multiple * multiple), max(multiple, size[1] // multiple * multiple)
