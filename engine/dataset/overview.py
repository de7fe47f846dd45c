"""What a person wants to know of pictures before they are trained on: the scan, the buckets, sizes that stand out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from engine.config.schema import RunConfig
from engine.dataset.buckets import BucketGrid, Size
from engine.dataset.pictures import Picture, Scan
from engine.dataset.pool import Progress
from engine.dataset.scan import scan
from engine.errors import ModelError, UsageError
from engine.models.registry import recognise
from engine.runs.layout import expanded
from engine.text import listing, plural, printable

USUAL = (256, 2048)
"""Sides in px; a smaller picture is blurred by the enlargement, of a larger one most is thrown away."""


@dataclass(frozen=True)
class Overview:
    """A scan and what follows from it."""

    scan: Scan
    buckets: dict[Size, int]
    """(width, height) in px to training pictures; empty where the settings make no buckets."""
    small: tuple[Picture, ...]
    """Pictures with a side below `smallest`."""
    large: tuple[Picture, ...]
    smallest: int
    numbered: bool
    """The source has `<repeats>_<name>` folders."""
    trouble: str = ""
    """Why there are no buckets."""

    @property
    def pictures(self) -> list[Picture]:
        """Training pictures, folder by folder."""
        return [picture for subset in self.scan.train_subsets for picture in subset.pictures]

    def lines(self) -> list[str]:
        """Everything found, in words: sizes first, then the scan."""
        lines = [self.trouble] if self.trouble else []
        if self.small:
            lines.append(f"{plural(len(self.small), 'picture')} with a side below {self.smallest} px, enlarged: "
                         f"{_sizes(self.small)}")  # fmt: skip
        if self.large:
            lines.append(f"{plural(len(self.large), 'picture')} with a side above {USUAL[1]} px, shrunk: "
                         f"{_sizes(self.large)}")  # fmt: skip
        return lines + self.scan.lines()


def overview(config: RunConfig, progress: Progress | None = None) -> Overview:
    """Scan the folders of a configuration and sort the pictures into the buckets of its model.

    Without a model, or with one that cannot be read, buckets are those of Stable Diffusion 1.5.

    Raises:
        UsageError, DataError: see `scan`.
    """
    found = scan(config, progress)
    pictures = [picture for subset in found.train_subsets for picture in subset.pictures]
    counts: Counter[Size] = Counter()
    trouble = ""
    try:
        model = _model(config)
        for subset in found.train_subsets:
            grid = BucketGrid.from_table(subset.table or config.dataset, **model)
            sizes = Counter((picture.width, picture.height) for picture in subset.pictures)
            for size, count in sizes.items():
                counts[grid.place(*size).bucket] += count
    except UsageError as error:
        trouble = str(error)
    tables = [subset.table or config.dataset for subset in found.train_subsets]
    smallest = min(USUAL[0], *(side for table in tables for side in table.size))
    root = expanded(config.dataset.train_data_dir)
    return Overview(
        scan=found,
        buckets=dict(counts),
        small=tuple(picture for picture in pictures if min(picture.width, picture.height) < smallest),
        large=tuple(picture for picture in pictures if max(picture.width, picture.height) > USUAL[1]),
        smallest=smallest,
        numbered=any(subset.path != root for subset in found.train_subsets),
        trouble=trouble,
    )


def _model(config: RunConfig) -> dict[str, int]:
    """What the model needs of buckets, as `BucketGrid.from_table` takes it."""
    model = config.model.pretrained_model_name_or_path
    try:
        known = recognise(model) if model else None
    except ModelError:
        known = None  # the step of the model tells what is wrong with it
    return {} if known is None else {"multiple": known.multiple, "downscale": known.downscale}


def _sizes(pictures: tuple[Picture, ...]) -> str:
    return listing([f"{printable(one.path.name)} ({one.width}×{one.height} px)" for one in pictures])
