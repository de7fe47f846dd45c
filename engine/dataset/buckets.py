"""Kohya's aspect buckets: the size at which an image is trained (facts: sd-scripts, library/train_util.py)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.config.dataset import DatasetTable
from engine.errors import UsageError, raise_together

if TYPE_CHECKING:
    from engine.families.resolved import ResolvedRun
    from engine.types import Recognition

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How an image is fitted to its bucket: scaled to `resized`, then cropped at `crop`."""

    bucket: Size
    resized: Size
    crop: tuple[int, int]
    """(left, top) in the resized image."""


@dataclass(frozen=True)
class BucketGrid:
    """The sizes that images are trained at."""

    resolution: Size
    enabled: bool
    no_upscale: bool
    minimum: int
    """Smallest side of a bucket; like `maximum` not applied with `no_upscale`."""
    maximum: int
    step: int
    buckets: tuple[Size, ...]
    """Sorted; empty with `no_upscale`, which computes them on demand."""
    notes: tuple[str, ...] = ()
    multiple: int = 64
    downscale: int = 8

    @classmethod
    def of_run(cls, run: ResolvedRun) -> BucketGrid:
        """The grid of a run, for its model.

        Raises:
            UsageError: as `from_table`.
        """
        return cls.of_model(run.config.dataset, run.recognition)

    @classmethod
    def of_model(cls, table: DatasetTable, recognition: Recognition) -> BucketGrid:
        """The grid of dataset settings for a model.

        Raises:
            UsageError: as `from_table`.
        """
        return cls.from_table(table, multiple=recognition.multiple, downscale=recognition.downscale)

    def of(self, table: DatasetTable | None) -> BucketGrid:
        """The grid of a subset's own settings for the same model; this grid if it has none."""
        if table is None:
            return self
        return BucketGrid.from_table(table, multiple=self.multiple, downscale=self.downscale)

    @classmethod
    def from_table(cls, table: DatasetTable, *, multiple: int = 64, downscale: int = 8) -> BucketGrid:
        """The grid of dataset settings.

        Args:
            multiple: bucket sides must be a multiple of it.
            downscale: pixels per latent cell; a single size must be a multiple of it.

        Raises:
            UsageError: the settings conflict with each other or with the model.
        """
        size = table.size
        step = table.bucket_reso_steps
        if not table.enable_bucket:
            if any(side % downscale for side in size):
                raise UsageError(
                    f"dataset.resolution = {size[0]}×{size[1]} is not a multiple of {downscale} px on both sides.",
                    f"Without dataset.enable_bucket this model needs that; use {_nearest(size, downscale)}.",
                    code="resolution-not-possible",
                )
            return cls(size, False, False, min(size), max(size), downscale, (size,), (), multiple, downscale)
        problems: list[UsageError] = []
        if step % multiple:
            fits = max(multiple, step // multiple * multiple)
            problems.append(
                UsageError(
                    f"dataset.bucket_reso_steps = {step} is not a multiple of {multiple}: this model works on blocks "
                    f"of {multiple}×{multiple} px, and a bucket has only whole ones.",
                    f"Set dataset.bucket_reso_steps = {fits}.",
                    code="bucket-step-not-possible",
                )
            )
            step = fits
        minimum = max(step, table.min_bucket_reso // step * step)
        maximum = -(-table.max_bucket_reso // step) * step
        notes = tuple(
            f"dataset.{name}: {value} becomes {used}, a multiple of bucket_reso_steps = {step}"
            for name, value, used in (
                ("min_bucket_reso", table.min_bucket_reso, minimum),
                ("max_bucket_reso", table.max_bucket_reso, maximum),
            )
            if value != used
        )
        raise_together([*problems, *_outside(size, minimum, maximum, step)])
        no_upscale = table.bucket_no_upscale
        buckets = () if no_upscale else make_buckets(size, minimum, maximum, step)
        return cls(size, True, no_upscale, minimum, maximum, step, buckets, notes, multiple, downscale)

    def place(self, width: int, height: int) -> Placement:
        """The placement of an image of `width` x `height` pixels (after rotation)."""
        if self.no_upscale:
            return self._place_shrinking(width, height)
        ratio = width / height
        if (width, height) in self.buckets:
            bucket = (width, height)
        else:
            bucket = min(self.buckets, key=lambda size: abs(size[0] / size[1] - ratio))
        return _cover(width, height, bucket)

    def _place_shrinking(self, width: int, height: int) -> Placement:
        """`bucket_no_upscale`: never enlarge, round down to the step; of two roundings the one with the closer ratio
        wins, in a tie the one by height."""
        ratio = width / height
        resized = (width, height)
        area = self.resolution[0] * self.resolution[1]
        if width * height > area:
            exact_width = math.sqrt(area * ratio)
            by_width = self._floor(exact_width)
            by_height = self._floor(area / exact_width)
            if not by_width or not by_height:
                return self._place_sliver(width, height)
            error_by_width = _error(by_width, self._floor(by_width / ratio), ratio)
            error_by_height = _error(self._floor(by_height * ratio), by_height, ratio)
            if error_by_width < error_by_height:
                resized = (by_width, int(by_width / ratio + 0.5))
            else:
                resized = (int(by_height * ratio + 0.5), by_height)
        bucket = (resized[0] // self.step * self.step, resized[1] // self.step * self.step)
        return _centred(bucket, resized) if all(bucket) else self._place_sliver(width, height)

    def _place_sliver(self, width: int, height: int) -> Placement:
        """A side below one step, for which Kohya divides by zero: enlarge it to one step, crop the other."""
        scale = self.step / min(width, height)
        sides = (min(self.maximum, int(side * scale + 0.5) // self.step * self.step) for side in (width, height))
        bucket_width, bucket_height = (max(self.step, side) for side in sides)
        return _cover(width, height, (bucket_width, bucket_height))

    def _floor(self, value: float) -> int:
        return int(value + 0.5) // self.step * self.step


def make_buckets(resolution: Size, minimum: int, maximum: int, step: int) -> tuple[Size, ...]:
    """All sizes between `minimum` and `maximum` whose area is at most that of `resolution`, in Kohya's order."""
    area = resolution[0] * resolution[1]
    square = int(math.sqrt(area) // step) * step
    sizes = {(square, square)}
    for width in range(minimum, maximum + 1, step):
        height = min(maximum, area // width // step * step)
        if height >= minimum:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def _error(width: int, height: int, ratio: float) -> float:
    return abs(width / height - ratio) if height else math.inf


def _cover(width: int, height: int, bucket: Size) -> Placement:
    """Scale the image to cover the bucket, crop the rest evenly."""
    scale = bucket[1] / height if width / height > bucket[0] / bucket[1] else bucket[0] / width
    return _centred(bucket, (int(width * scale + 0.5), int(height * scale + 0.5)))


def _centred(bucket: Size, resized: Size) -> Placement:
    return Placement(bucket, resized, ((resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2))


def _outside(size: tuple[int, int], minimum: int, maximum: int, step: int) -> Iterator[UsageError]:
    """The problems of a resolution outside the sides of buckets."""
    if min(size) < minimum:
        yield UsageError(
            f"dataset.resolution = {size[0]}×{size[1]} has a side below dataset.min_bucket_reso = {minimum}.",
            f"Lower dataset.min_bucket_reso to {max(step, min(size) // step * step)}, or raise the resolution."
            if min(size) >= step
            else "Lower dataset.min_bucket_reso and dataset.bucket_reso_steps, or raise the resolution.",
            code="resolution-outside-buckets",
        )
    if max(size) > maximum:
        yield UsageError(
            f"dataset.resolution = {size[0]}×{size[1]} has a side above dataset.max_bucket_reso = {maximum}.",
            f"Raise dataset.max_bucket_reso to {-(-max(size) // step) * step}, or lower the resolution.",
            code="resolution-outside-buckets",
        )


def _nearest(size: Size, multiple: int) -> str:
    return "×".join(str(max(multiple, round(side / multiple) * multiple)) for side in size)
