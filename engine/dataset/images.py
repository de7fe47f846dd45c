"""The result of a scan of the folders: images, subsets, and rejected files."""

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
"""Note for an image whose caption has more lines."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One usable image."""

    path: Path
    width: int
    """Pixels after EXIF rotation, like `height`."""
    height: int
    format: str
    """Pillow's name of the actual format, whatever the extension."""
    caption: str | None = None
    """Text of the caption file; several lines only with wildcards; None if there is no file or it is empty."""
    caption_path: Path | None = None
    notes: tuple[str, ...] = ()
    """What is changed on use: "animated: only the first frame is used"."""
    mask_path: Path | None = None
    """An image of the same shape whose red channel is the loss weight (`masked_loss`)."""
    kohya_exact: bool = False
    """Pixels are read as in Kohya's scripts: EXIF orientation ignored, colours under transparency kept."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file that is not used."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.path.name)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Subset:
    """The images of one folder."""

    path: Path
    num_repeats: int
    class_tokens: str
    """The caption of images that have none."""
    is_reg: bool
    is_validation: bool
    images: tuple[ImageInfo, ...]
    table: DatasetTable | None = None
    """Its own settings, from a dataset configuration; None: those of `[dataset]`."""
    dataset: int = 0
    """Number of its dataset: images of different datasets never share a batch."""
    batch_size: int | None = None
    """Of its dataset; None: `training.train_batch_size`."""
    spec: SubsetSpec | None = None
    """Its entry in the dataset configuration, if there is one."""
    tags: tuple[str, ...] = ()
    """Tags of a metadata file, one text per image that also has a caption; Kohya's metadata counts them."""

    def text(self, image: ImageInfo) -> str:
        """Input of the caption pipeline: the image's caption, else the class tokens."""
        return self.class_tokens if image.caption is None else image.caption


@dataclass(frozen=True)
class Scan:
    """All images and other files in the folders of a configuration."""

    subsets: tuple[Subset, ...]
    rejected: tuple[Rejected, ...]
    notes: list[str]
    min_images: int = 1
    orphans: tuple[Path, ...] = ()
    """Caption files that belong to no image."""

    @property
    def train_subsets(self) -> list[Subset]:
        """Training subsets, without regularization."""
        return [subset for subset in self.subsets if not subset.is_reg and not subset.is_validation]

    @property
    def reg_subsets(self) -> list[Subset]:
        """Regularization subsets."""
        return [subset for subset in self.subsets if subset.is_reg]

    @property
    def validation_subsets(self) -> list[Subset]:
        """Validation subsets."""
        return [subset for subset in self.subsets if subset.is_validation]

    @property
    def num_images(self) -> int:
        """Training images, without repeats and regularization."""
        return sum(len(subset.images) for subset in self.train_subsets)

    @property
    def missing_captions(self) -> list[ImageInfo]:
        """Images of all subsets without a caption of their own."""
        return [image for subset in self.subsets for image in subset.images if image.caption is None]

    def without(self, rejections: Iterable[Rejected]) -> Scan:
        """A scan that also rejects these files. Repeats stay as they are.

        Raises:
            DataError: fewer than `min_images` training images remain.
        """
        rejections = tuple(rejections)
        if not rejections:
            return self
        rejected = {rejection.path for rejection in rejections}
        subsets = tuple(
            replace(subset, images=tuple(image for image in subset.images if image.path not in rejected))
            for subset in self.subsets
        )
        scan = replace(self, subsets=subsets, rejected=self.rejected + rejections)
        scan.require_enough()
        return scan

    def require_enough(self) -> None:
        """Raise DataError if there are fewer than `min_images` training images."""
        if self.num_images >= max(1, self.min_images):
            return
        folders = listing([printable(subset.path) for subset in self.train_subsets])
        aside = f" Set aside: {listing(self.rejected)}." if self.rejected else ""
        validation = sum(len(subset.images) for subset in self.validation_subsets)
        if self.num_images == 0 and validation and not aside:
            raise DataError(
                f"No image in {folders} is left to train on: {plural(validation, 'image')} used for validation.",
                "Lower dataset.validation_split.",
                code="no-images-left-to-train",
            )
        if self.num_images == 0:
            raise DataError(
                f"No usable images in {folders}.{aside}", "Fix or replace those files.", code="no-usable-images"
            )
        raise DataError(
            f"Only {plural(self.num_images, 'usable image')} in {folders}; dataset.min_images asks for "
            f"{self.min_images}.{aside}",
            "Add images, or lower dataset.min_images.",
            code="too-few-images",
        )

    def lines(self) -> list[str]:
        """The scan as text: folders, missing captions, changes on use, rejected files."""
        lines = [line for subset in self.subsets for line in _subset_lines(subset)]
        lines += self.notes
        by_note: dict[str, list[Path]] = {}
        for subset in self.subsets:
            for image in subset.images:
                for note in image.notes:
                    by_note.setdefault(note, []).append(image.path)
        lines += [
            f"{plural(len(paths), 'image')}: {note} ({listing(paths, text=_name)})" for note, paths in by_note.items()
        ]
        if self.orphans:
            count = plural(len(self.orphans), "caption file")
            lines.append(f"{count} without an image of that name: {listing(self.orphans, text=_name)}")
        if self.rejected:
            lines.append(f"{plural(len(self.rejected), 'file')} set aside:")
            lines += [f"  {entry}" for entry in self.rejected[:20]]
            if len(self.rejected) > 20:
                lines.append(f"  and {len(self.rejected) - 20} more")
        return lines


def _name(path: Path) -> str:
    return printable(path.name)


def _subset_lines(subset: Subset) -> list[str]:
    kind = "regularization" if subset.is_reg else "validation" if subset.is_validation else "training"
    lines = [f"{plural(len(subset.images), f'{kind} image')} in {printable(subset.path)}"]
    missing = [image.path for image in subset.images if image.caption is None]
    if missing:
        used = f'"{printable(subset.class_tokens)}"' if subset.class_tokens else "an empty caption"
        lines.append(
            f"{len(missing)} of {plural(len(subset.images), 'image')} without a caption: {used} is used "
            f"({listing(missing, text=_name)})"
        )
    return lines
