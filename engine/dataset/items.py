"""Training items: the entries of an epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.dataset.buckets import Placement
from engine.dataset.captions import CaptionRules
from engine.dataset.images import ImageInfo

if TYPE_CHECKING:
    from engine.config.dataset import DatasetTable


@dataclass(frozen=True, slots=True)
class Item:
    """One turn of one image in an epoch; an image with 10 repeats is 10 items."""

    image: ImageInfo
    subset_index: int
    placement: Placement
    is_reg: bool
    text: str
    """Input of the caption pipeline: the image's caption, else the class tokens of its subset."""
    table: DatasetTable | None = field(default=None, compare=False)
    """Settings of its subset; None: those of `[dataset]`."""
    rules: CaptionRules | None = field(default=None, compare=False)
    """Caption rules of its subset; None: those of `[dataset]`."""
    dataset: int = 0
    """Number of its dataset."""
    batch_size: int | None = None
    """Batch size of its dataset; None: that of the run."""
