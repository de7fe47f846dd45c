"""Everything that the checks look at: the scan, the measures of its pictures, and what follows from several of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config.dataset import DatasetTable
from engine.config.schema import RunConfig
from engine.dataset.buckets import BucketGrid
from engine.dataset.pictures import Picture, Rejected, Scan, Subset
from engine.dataset.report.copies import Copies, find_copies
from engine.dataset.report.measures import Measures
from engine.dataset.report.shelf import Key, Shelf
from engine.errors import DataError

if TYPE_CHECKING:
    from engine.models.base import Recognition


@dataclass
class Survey:
    """A dataset and what was measured of it."""

    config: RunConfig
    scan: Scan
    bad_captions: dict[Path, DataError]
    recognition: Recognition | None
    """Of the model that is named, or of one of the named family; None: neither is."""
    grid: BucketGrid | None
    """None where the settings make no buckets."""
    shelf: Shelf
    measures: dict[Path, Measures] = field(default_factory=dict)
    keys: dict[Path, Key] = field(default_factory=dict)
    thumbs: dict[Path, bytes] = field(default_factory=dict)
    broken: list[Rejected] = field(default_factory=list)
    """Pictures whose header is intact and whose pixels are not."""
    trouble: str = ""
    """Why there are no buckets."""

    def table(self, subset: Subset) -> DatasetTable:
        """The settings that hold for a subset."""
        return subset.table or self.config.dataset

    def measured(self, subsets: Sequence[Subset] | None = None) -> Iterator[tuple[Picture, Measures]]:
        """Every picture that can be read, of all subsets or of these; once, where two subsets share it."""
        told: set[Path] = set()
        for subset in self.scan.subsets if subsets is None else subsets:
            for picture in subset.pictures:
                measures = self.measures.get(picture.path)
                if measures is not None and picture.path not in told:
                    told.add(picture.path)
                    yield picture, measures

    @cached_property
    def training(self) -> list[Picture]:
        """Readable pictures that are trained on."""
        return [picture for picture, _ in self.measured(self.scan.train_subsets)]

    @cached_property
    def copies(self) -> Copies:
        """Pictures that are the same picture."""
        pairs = list(self.measured())
        return find_copies(
            [picture for picture, _ in pairs], [measures for _, measures in pairs],
            [self.thumbs[picture.path] for picture, _ in pairs],
        )  # fmt: skip

    def distinct(self) -> list[Picture]:
        """Training pictures, of each group of copies only the first."""
        extra = {picture.path for group in (*self.copies.exact, *self.copies.near) for picture in group[1:]}
        return [picture for picture in self.training if picture.path not in extra]

    def marks(self, pictures: Sequence[Picture]) -> Iterator[tuple[Picture, bytes]]:
        """Each picture's map of edges, read from the shelf one by one."""
        maps = self.shelf.marks([self.keys[picture.path] for picture in pictures])
        return zip(pictures, maps, strict=True)
