"""Image sizes, and the parts that the aspect buckets crop."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.dataset.buckets import BucketGrid, Placement, Size
from engine.dataset.overview import USUAL
from engine.dataset.report.findings import Case, Finding, Kind

if TYPE_CHECKING:
    from engine.dataset.images import ImageInfo
    from engine.dataset.report.survey import Survey

MOST_CUT = 0.2
"""Share of an image."""

SMALL = Kind(
    "small",
    "warning",
    "Small",
    f"A side is below {USUAL[0]} px, or below the training resolution where that is less.",
    "It is enlarged, and the LoRA learns the blur.",
    "Use a larger original, or set dataset.bucket_no_upscale; if there is none, use an upscaler.",
)
LARGE = Kind(
    "large",
    "note",
    "Large",
    f"A side is above {USUAL[1]} px.",
    "It is shrunk to the training resolution; details are lost.",
    "Add crops of the important parts as separate images.",
)
CROPPED = Kind(
    "cropped",
    "warning",
    "Much is cut off",
    f"More than {MOST_CUT:.0%} of the image is outside its bucket.",
    "The cropped part is not learned: often a head or the feet. The LoRA also learns the crop.",
    "Crop it yourself to a usual aspect ratio, enable dataset.enable_bucket, or raise dataset.max_bucket_reso.",
)
LONELY = Kind(
    "lonely-bucket",
    "note",
    "Buckets below a batch",
    "A bucket holds fewer items (images × repeats) than training.train_batch_size.",
    "Its batches are smaller, so each of its images has more weight in a step.",
    "Crop these images to the aspect ratio of others, or add images of that ratio.",
)
KINDS = (SMALL, LARGE, CROPPED, LONELY)


@dataclass(frozen=True)
class Cut:
    """An image and its crop."""

    image: ImageInfo
    placement: Placement

    @property
    def share(self) -> float:
        """The share of the image outside the bucket."""
        (width, height), (full_width, full_height) = self.placement.bucket, self.placement.resized
        return 1 - width * height / (full_width * full_height)

    @property
    def inside(self) -> tuple[float, float, float, float]:
        """The kept part: (left, top, right, bottom) as shares of width and height."""
        (left, top), (width, height) = self.placement.crop, self.placement.bucket
        full_width, full_height = self.placement.resized
        return left / full_width, top / full_height, (left + width) / full_width, (top + height) / full_height


def cuts(survey: Survey) -> list[Cut]:
    """Every training image with its bucket; empty if the settings are invalid."""
    result: list[Cut] = []
    if survey.grid is None:
        return result
    for subset in survey.scan.train_subsets:
        grid: BucketGrid = survey.grid.of(subset.table)
        result += [Cut(image, grid.place(image.width, image.height)) for image, _ in survey.measured([subset])]
    return result


def find(survey: Survey) -> Iterator[Finding]:
    """Yield the findings of this group."""
    small, large = [], []
    for subset in survey.scan.subsets:
        smallest = min(USUAL[0], *survey.table(subset).size)
        for image, _ in survey.measured([subset]):
            case = Case((image.path,), f"{image.width}×{image.height} px")
            if min(image.width, image.height) < smallest:
                small.append(case)
            if max(image.width, image.height) > USUAL[1]:
                large.append(case)
    if small:
        yield Finding(SMALL, tuple(small))
    if large:
        yield Finding(LARGE, tuple(large))
    placed = cuts(survey)
    much = sorted((cut for cut in placed if cut.share > MOST_CUT), key=lambda cut: -cut.share)
    if much:
        yield Finding(CROPPED, tuple(Case((cut.image.path,), f"{cut.share:.0%} is cut off") for cut in much))
    yield from _lonely(survey, placed)


def _lonely(survey: Survey, placed: list[Cut]) -> Iterator[Finding]:
    items: Counter[tuple[int, Size]] = Counter()
    members: dict[tuple[int, Size], list[ImageInfo]] = defaultdict(list)
    placements = {cut.image.path: cut.placement for cut in placed}
    batch: dict[tuple[int, Size], int] = {}
    for subset in survey.scan.train_subsets:
        for image in subset.images:
            placement = placements.get(image.path)
            if placement is not None:
                key = (subset.dataset, placement.bucket)
                items[key] += subset.num_repeats
                members[key].append(image)
                batch[key] = subset.batch_size or survey.config.training.train_batch_size
    cases = [
        Case(tuple(image.path for image in members[key]), f"{key[1][0]}×{key[1][1]} px: {count} of {batch[key]}")
        for key, count in sorted(items.items())
        if count < batch[key]
    ]
    if cases:
        yield Finding(LONELY, tuple(cases))
