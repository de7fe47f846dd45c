"""Sizes, and what the aspect buckets cut off."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.dataset.buckets import BucketGrid, Placement, Size
from engine.dataset.overview import USUAL
from engine.dataset.report.findings import Case, Finding, Kind

if TYPE_CHECKING:
    from engine.dataset.pictures import Picture
    from engine.dataset.report.survey import Survey

MOST_CUT = 0.2
"""Share of a picture."""

SMALL = Kind(
    "small",
    "warning",
    "Small",
    f"A side is below {USUAL[0]} px, or below the training resolution where that is less.",
    "It is enlarged, and the LoRA learns the blur of the enlargement.",
    "Take a larger original, or set dataset.bucket_no_upscale; an upscaler helps where there is none.",
)
LARGE = Kind(
    "large",
    "note",
    "Large",
    f"A side is above {USUAL[1]} px.",
    "It is shrunk to the training resolution; details of the whole are lost.",
    "Crops of what matters, beside the whole, use more of it.",
)
CROPPED = Kind(
    "cropped",
    "warning",
    "Much is cut off",
    f"More than {MOST_CUT:.0%} of the picture lies outside its bucket.",
    "What is cut off is not learnt: often a head or the feet. The LoRA learns the cut as well.",
    "Crop it yourself to a usual shape, switch dataset.enable_bucket on, or raise dataset.max_bucket_reso.",
)
LONELY = Kind(
    "lonely-bucket",
    "note",
    "Buckets below a batch",
    "A bucket holds fewer items (pictures × repeats) than training.train_batch_size.",
    "Its batches are smaller, so each of its pictures weighs more in a step.",
    "Crop these pictures to the shape of others, or add some of their shape.",
)
KINDS = (SMALL, LARGE, CROPPED, LONELY)


@dataclass(frozen=True)
class Cut:
    """What becomes of one picture."""

    picture: Picture
    placement: Placement

    @property
    def share(self) -> float:
        """Of the picture, how much lies outside the bucket."""
        (width, height), (whole_width, whole_height) = self.placement.bucket, self.placement.resized
        return 1 - width * height / (whole_width * whole_height)

    @property
    def inside(self) -> tuple[float, float, float, float]:
        """What is kept: (left, top, right, bottom) as shares of width and height."""
        (left, top), (width, height) = self.placement.crop, self.placement.bucket
        whole_width, whole_height = self.placement.resized
        return left / whole_width, top / whole_height, (left + width) / whole_width, (top + height) / whole_height


def cuts(survey: Survey) -> list[Cut]:
    """Every training picture with its bucket; empty where the settings make no buckets."""
    found: list[Cut] = []
    if survey.grid is None:
        return found
    for subset in survey.scan.train_subsets:
        grid: BucketGrid = survey.grid.of(subset.table)
        found += [Cut(picture, grid.place(picture.width, picture.height)) for picture, _ in survey.measured([subset])]
    return found


def find(survey: Survey) -> Iterator[Finding]:
    """The findings of this group."""
    small, large = [], []
    for subset in survey.scan.subsets:
        smallest = min(USUAL[0], *survey.table(subset).size)
        for picture, _ in survey.measured([subset]):
            case = Case((picture.path,), f"{picture.width}×{picture.height} px")
            if min(picture.width, picture.height) < smallest:
                small.append(case)
            if max(picture.width, picture.height) > USUAL[1]:
                large.append(case)
    if small:
        yield Finding(SMALL, tuple(small))
    if large:
        yield Finding(LARGE, tuple(large))
    placed = cuts(survey)
    much = sorted((cut for cut in placed if cut.share > MOST_CUT), key=lambda cut: -cut.share)
    if much:
        yield Finding(CROPPED, tuple(Case((cut.picture.path,), f"{cut.share:.0%} is cut off") for cut in much))
    yield from _lonely(survey, placed)


def _lonely(survey: Survey, placed: list[Cut]) -> Iterator[Finding]:
    items: Counter[tuple[int, Size]] = Counter()
    members: dict[tuple[int, Size], list[Picture]] = defaultdict(list)
    placements = {cut.picture.path: cut.placement for cut in placed}
    batch: dict[tuple[int, Size], int] = {}
    for subset in survey.scan.train_subsets:
        for picture in subset.pictures:
            placement = placements.get(picture.path)
            if placement is not None:
                key = (subset.dataset, placement.bucket)
                items[key] += subset.num_repeats
                members[key].append(picture)
                batch[key] = subset.batch_size or survey.config.training.train_batch_size
    cases = [
        Case(tuple(picture.path for picture in members[key]), f"{key[1][0]}×{key[1][1]} px: {count} of {batch[key]}")
        for key, count in sorted(items.items())
        if count < batch[key]
    ]
    if cases:
        yield Finding(LONELY, tuple(cases))
