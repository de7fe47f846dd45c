"""What a scan of the folders finds: pictures, subsets, and what was set aside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config.dataset import DatasetTable
from engine.errors import DataError
from engine.text import listing, plural, printable

if TYPE_CHECKING:
    from engine.config.kohya.dataset_file import SubsetSpec


ONLY_FIRST_LINE = "only the first line of its caption is used"
"""A note of a picture whose caption has more."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One usable picture."""

    path: Path
    width: int
    """Pixels after EXIF rotation, like `height`."""
    height: int
    format: str
    """Pillow's name of the real format, whatever the extension says."""
    caption: str | None = None
    """Text of the caption file; several lines only with wildcards; None when there is no file or it is empty."""
    caption_path: Path | None = None
    notes: tuple[str, ...] = ()
    """What is changed when it is used: "animated: only the first frame is used"."""
    mask_path: Path | None = None
    """A picture of the same shape whose red channel weighs the loss (`masked_loss`)."""
    kohya_exact: bool = False
    """Its pixels are read as Kohya's scripts do: not turned as EXIF says, what lies under transparency is shown."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that is not used."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.path.name)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Subset:
    """The pictures of one folder."""

    path: Path
    num_repeats: int
    class_tokens: str
    """The caption of pictures that have none."""
    is_reg: bool
    is_validation: bool
    pictures: tuple[Picture, ...]
    table: DatasetTable | None = None
    """Settings of its own, from a dataset configuration; None: those of `[dataset]`."""
    dataset: int = 0
    """Number of its dataset: pictures of different datasets never share a batch."""
    batch_size: int | None = None
    """Of its dataset; None: `training.train_batch_size`."""
    spec: SubsetSpec | None = None
    """What the dataset configuration says of it, where there is one."""
    tags: tuple[str, ...] = ()
    """The tags of a metadata file, one text a picture that has a caption besides; Kohya's metadata counts them."""

    def text(self, picture: Picture) -> str:
        """Where the caption pipeline starts: the picture's caption, else the class tokens."""
        return self.class_tokens if picture.caption is None else picture.caption


@dataclass(frozen=True)
class Scan:
    """Everything found in the folders of a configuration."""

    subsets: tuple[Subset, ...]
    rejected: tuple[Rejected, ...]
    notes: list[str]
    min_images: int = 1
    orphans: tuple[Path, ...] = ()
    """Caption files beside the pictures that belong to none of them."""

    @property
    def train_subsets(self) -> list[Subset]:
        """Subsets that are trained on as they are."""
        return [subset for subset in self.subsets if not subset.is_reg and not subset.is_validation]

    @property
    def reg_subsets(self) -> list[Subset]:
        """Regularization subsets."""
        return [subset for subset in self.subsets if subset.is_reg]

    @property
    def validation_subsets(self) -> list[Subset]:
        """Held-out subsets."""
        return [subset for subset in self.subsets if subset.is_validation]

    @property
    def num_pictures(self) -> int:
        """Pictures trained on, without repeats, without regularization."""
        return sum(len(subset.pictures) for subset in self.train_subsets)

    @property
    def missing_captions(self) -> list[Picture]:
        """Pictures of all subsets without a caption of their own."""
        return [picture for subset in self.subsets for picture in subset.pictures if picture.caption is None]

    def without(self, rejections: Iterable[Rejected]) -> Scan:
        """A scan in which these files are set aside too. Repeats stay as they were decided.

        Raises:
            DataError: fewer than `min_images` training pictures remain.
        """
        rejections = tuple(rejections)
        if not rejections:
            return self
        gone = {rejection.path for rejection in rejections}
        subsets = tuple(
            replace(subset, pictures=tuple(picture for picture in subset.pictures if picture.path not in gone))
            for subset in self.subsets
        )
        scan = replace(self, subsets=subsets, rejected=self.rejected + rejections)
        scan.require_enough()
        return scan

    def require_enough(self) -> None:
        """Raise DataError when fewer than `min_images` training pictures are there."""
        if self.num_pictures >= max(1, self.min_images):
            return
        folders = listing([printable(subset.path) for subset in self.train_subsets])
        aside = f" Set aside: {listing([str(entry) for entry in self.rejected])}." if self.rejected else ""
        held_out = sum(len(subset.pictures) for subset in self.validation_subsets)
        if self.num_pictures == 0 and held_out and not aside:
            raise DataError(
                f"No picture in {folders} is left to train with: {plural(held_out, 'picture')} held out.",
                "Lower dataset.validation_split.",
            )
        if self.num_pictures == 0:
            raise DataError(f"No usable pictures in {folders}.{aside}", "Mend or replace those files.")
        raise DataError(
            f"Only {plural(self.num_pictures, 'usable picture')} in {folders}; dataset.min_images asks for "
            f"{self.min_images}.{aside}",
            "Add pictures, or lower dataset.min_images.",
        )

    def lines(self) -> list[str]:
        """The scan in words: folders, missing captions, what is changed, what is set aside."""
        lines = [line for subset in self.subsets for line in _subset_lines(subset)]
        lines += self.notes
        by_note: dict[str, list[str]] = {}
        for subset in self.subsets:
            for picture in subset.pictures:
                for note in picture.notes:
                    by_note.setdefault(note, []).append(printable(picture.path.name))
        lines += [f"{plural(len(names), 'picture')}: {note} ({listing(names)})" for note, names in by_note.items()]
        if self.orphans:
            names = [printable(path.name) for path in self.orphans]
            lines.append(f"{plural(len(names), 'caption file')} without an image of that name: {listing(names)}")
        if self.rejected:
            lines.append(f"{plural(len(self.rejected), 'file')} set aside:")
            lines += [f"  {entry}" for entry in self.rejected[:20]]
            if len(self.rejected) > 20:
                lines.append(f"  and {len(self.rejected) - 20} more")
        return lines


def _subset_lines(subset: Subset) -> list[str]:
    kind = "regularization" if subset.is_reg else "held-out" if subset.is_validation else "training"
    lines = [f"{plural(len(subset.pictures), f'{kind} picture')} in {printable(subset.path)}"]
    missing = [printable(picture.path.name) for picture in subset.pictures if picture.caption is None]
    if missing:
        used = f'"{printable(subset.class_tokens)}"' if subset.class_tokens else "an empty caption"
        lines.append(
            f"{len(missing)} of {plural(len(subset.pictures), 'picture')} without a caption: {used} is used "
            f"({listing(missing)})"
        )
    return lines
