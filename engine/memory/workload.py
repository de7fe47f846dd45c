"""The largest pieces of work in a run: what its memory is planned for. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.arithmetic import StepPlan
    from engine.models.base import Recognition

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class Workload:
    """Sizes at their largest."""

    batch: Size
    """Of the pictures of the largest batch."""
    pictures: int
    """In that batch."""
    encoded: Size
    """Of the largest picture that the latent cache encodes, `memory.vae_batch_size` at once."""
    sample: Size | None
    """Of the largest sample; None: no samples."""
    guided: bool
    """Whether a sample is drawn with and without its prompt at once (classifier-free guidance)."""
    held_out: bool
    """Whether there is a held-out loss."""

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Workload:
        """From JSON, where tuples became lists."""
        values: dict[str, Any] = {}
        for key, value in stored.items():
            values[key] = tuple(value) if isinstance(value, list) else value
        return cls(**values)


def workload(config: RunConfig, recognition: Recognition, steps: StepPlan | None) -> Workload:
    """What a run of `config` works on.

    Args:
        steps: the run's plan, which knows its pictures; None: pictures of the training resolution are assumed.

    Raises:
        UsageError: the resolution does not go with the model, or the prompt file cannot be read.
    """
    from engine.config.prompts import read_prompts
    from engine.dataset.buckets import BucketGrid
    from engine.models.registry import family_named

    grid = BucketGrid.from_config(config, multiple=recognition.multiple, downscale=recognition.downscale)
    together = config.training.train_batch_size
    if steps is None:
        found = [(*size, together) for size in grid.buckets or [_fitting(grid.resolution, recognition.multiple)]]
    else:
        largest = max(steps.batch_sizes or (together,))
        found = [(width, height, min(largest, items)) for width, height, items in steps.buckets]
    width, height, pictures = max(
        found, key=lambda bucket: (bucket[0] * bucket[1] * bucket[2], -abs(bucket[0] - bucket[1]))
    )
    encoded = max(((one[0], one[1]) for one in found), key=lambda size: (size[0] * size[1], -abs(size[0] - size[1])))
    sampling, dataset = config.sampling, config.dataset
    draws = sampling.sample_every_n_steps or sampling.sample_every_n_epochs
    prompts = read_prompts(config, lambda _: None, family_named(recognition.family).prompt_flags) if draws else []
    requests = [prompt.request for prompt in prompts]
    sample = max(((one.width, one.height) for one in requests), key=lambda size: size[0] * size[1], default=None)
    return Workload(
        batch=(width, height),
        pictures=pictures,
        encoded=encoded,
        sample=sample,
        guided=any(request.scale > 1 for request in requests),
        held_out=bool(dataset.validation_data_dir or dataset.validation_split),
    )


def _fitting(size: Size, multiple: int) -> Size:
    return max(multiple, size[0] // multiple * multiple), max(multiple, size[1] // multiple * multiple)
