"""An overview of the images before training: the scan, the buckets, unusual sizes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from engine.config.schema import RunConfig
from engine.dataset.buckets import BucketGrid, Size
from engine.dataset.images import ImageInfo, Scan
from engine.dataset.scan import scan
from engine.errors import ModelError, UsageError
from engine.families.registry import recognise
from engine.paths import expanded
from engine.text import listing, plural, printable
from engine.types import Progress

USUAL = (256, 2048)
"""Sides in px; a smaller image is blurred by enlarging, a larger one loses most of its detail."""


@dataclass(frozen=True)
class Overview:
    """A scan with buckets and unusual sizes."""

    scan: Scan
    buckets: dict[Size, int]
    """(width, height) in px to training images; empty if the settings are invalid."""
    small: tuple[ImageInfo, ...]
    """Images with a side below `smallest`."""
    large: tuple[ImageInfo, ...]
    smallest: int
    numbered: bool
    """Whether the source has `<repeats>_<name>` folders."""
    trouble: str = ""
    """Why there are no buckets."""

    @property
    def images(self) -> list[ImageInfo]:
        """Training images, folder by folder."""
        return [image for subset in self.scan.train_subsets for image in subset.images]

    def lines(self) -> list[str]:
        """The overview as text: sizes first, then the scan."""
        lines = [self.trouble] if self.trouble else []
        if self.small:
            lines.append(f"{plural(len(self.small), 'image')} with a side below {self.smallest} px, enlarged: "
                         f"{_sizes(self.small)}")  # fmt: skip
        if self.large:
            lines.append(f"{plural(len(self.large), 'image')} with a side above {USUAL[1]} px, shrunk: "
                         f"{_sizes(self.large)}")  # fmt: skip
        return lines + self.scan.lines()


def overview(config: RunConfig, progress: Progress | None = None) -> Overview:
    """Scan the folders of a configuration and sort the images into the buckets of its model.

    Without a model, or with one that cannot be read, buckets are those of Stable Diffusion 1.5.

    Raises:
        UsageError, DataError: as `scan`.
    """
    result = scan(config, progress)
    images = [image for subset in result.train_subsets for image in subset.images]
    counts: Counter[Size] = Counter()
    trouble = ""
    try:
        model = _model(config)
        for subset in result.train_subsets:
            grid = BucketGrid.from_table(subset.table or config.dataset, **model)
            sizes = Counter((image.width, image.height) for image in subset.images)
            for size, count in sizes.items():
                counts[grid.place(*size).bucket] += count
    except UsageError as error:
        trouble = str(error)
    tables = [subset.table or config.dataset for subset in result.train_subsets]
    smallest = min(USUAL[0], *(side for table in tables for side in table.size))
    root = expanded(config.dataset.train_data_dir)
    return Overview(
        scan=result,
        buckets=dict(counts),
        small=tuple(image for image in images if min(image.width, image.height) < smallest),
        large=tuple(image for image in images if max(image.width, image.height) > USUAL[1]),
        smallest=smallest,
        numbered=any(subset.path != root for subset in result.train_subsets),
        trouble=trouble,
    )


def _model(config: RunConfig) -> dict[str, int]:
    """The model's arguments for `BucketGrid.from_table`."""
    model = config.model.pretrained_model_name_or_path
    try:
        recognition = recognise(model) if model else None
    except ModelError:
        recognition = None  # reported by the model step
    return {} if recognition is None else {"multiple": recognition.multiple, "downscale": recognition.downscale}


def _sizes(images: tuple[ImageInfo, ...]) -> str:
    return listing(images, text=lambda image: f"{printable(image.path.name)} ({image.width}×{image.height} px)")
