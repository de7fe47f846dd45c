"""The input of the checks: the scan, the measures of its images, and results derived from several images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config.dataset import DatasetTable
from engine.config.schema import RunConfig
from engine.dataset.buckets import BucketGrid
from engine.dataset.images import ImageInfo, Rejected, Scan, Subset
from engine.dataset.report.copies import Copies, find_copies
from engine.dataset.report.measure_cache import Key, MeasureCache
from engine.dataset.report.measures import Measures
from engine.errors import DataError

if TYPE_CHECKING:
    from engine.types import Recognition


@dataclass
class Survey:
    """A dataset with its measures."""

    config: RunConfig
    scan: Scan
    bad_captions: dict[Path, DataError]
    recognition: Recognition | None
    """Of the model, else of the reference model of the family; None: neither is set."""
    grid: BucketGrid | None
    """None if the settings are invalid."""
    cache: MeasureCache
    measures: dict[Path, Measures] = field(default_factory=dict)
    keys: dict[Path, Key] = field(default_factory=dict)
    thumbs: dict[Path, bytes] = field(default_factory=dict)
    broken: list[Rejected] = field(default_factory=list)
    """Images with an intact header and broken pixels."""
    trouble: str = ""
    """Why there is no model or no grid."""

    def table(self, subset: Subset) -> DatasetTable:
        """The settings of a subset."""
        return subset.table or self.config.dataset

    def measured(self, subsets: Sequence[Subset] | None = None) -> Iterator[tuple[ImageInfo, Measures]]:
        """Yield every readable image, of all subsets or of these, once."""
        seen: set[Path] = set()
        for subset in self.scan.subsets if subsets is None else subsets:
            for image in subset.images:
                measures = self.measures.get(image.path)
                if measures is not None and image.path not in seen:
                    seen.add(image.path)
                    yield image, measures

    @cached_property
    def training(self) -> list[ImageInfo]:
        """Readable training images."""
        return [image for image, _ in self.measured(self.scan.train_subsets)]

    @cached_property
    def copies(self) -> Copies:
        """Duplicate images."""
        pairs = list(self.measured())
        return find_copies(
            [image for image, _ in pairs], [measures for _, measures in pairs],
            [self.thumbs[image.path] for image, _ in pairs],
        )  # fmt: skip

    def distinct(self) -> list[ImageInfo]:
        """Training images, with only the first of each group of copies."""
        extra = {image.path for group in (*self.copies.exact, *self.copies.near) for image in group[1:]}
        return [image for image in self.training if image.path not in extra]

    def marks(self, images: Sequence[ImageInfo]) -> Iterator[tuple[ImageInfo, bytes]]:
        """Yield each image with its map of edges, read from the cache one by one."""
        maps = self.cache.marks([self.keys[image.path] for image in images])
        return zip(images, maps, strict=True)
