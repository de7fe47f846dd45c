"""A copy of the pictures in which everything is mended that can be mended safely. The originals are never touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine import atomic
from engine.dataset.caption_files import has_word, with_trigger
from engine.dataset.decoding import UnusablePicture, decode
from engine.dataset.pictures import Picture, Subset
from engine.dataset.pixels import flatten
from engine.dataset.report import borders, duplicates, files, texts
from engine.dataset.report.checking import Told
from engine.dataset.report.findings import Finding, Report
from engine.dataset.report.survey import Survey
from engine.errors import StorageError, UsageError
from engine.runs.layout import expanded
from engine.text import plural, printable

_REDRAWN = (
    files.CMYK,
    files.SIXTEEN_BIT,
    files.ANIMATED,
    files.TRANSPARENT,
    files.ROTATED,
    files.RARE,
    borders.BORDERS,
)
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


@dataclass
class Repaired:
    """What came of it."""

    place: Path
    copied: int = 0
    redrawn: int = 0
    renamed: int = 0
    captions: int = 0
    left_out: list[Path] = field(default_factory=list)

    def line(self) -> str:
        """In one sentence."""
        parts = [f"{plural(self.copied + self.redrawn, 'picture')}", f"{self.redrawn} of them redrawn"]
        if self.renamed:
            parts.append(f"{self.renamed} renamed")
        parts += [f"{plural(self.captions, 'caption')} changed", f"{plural(len(self.left_out), 'file')} left out"]
        return f"Repaired copy in {printable(self.place)}: {', '.join(parts)}."


def require_place(found_in: list[Path], out: Path) -> None:
    """Refuse a place where the copy could touch anything.

    Raises:
        UsageError: it is there and not empty, or in one of the folders of the pictures.
    """
    place = out.resolve()
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"--repair: {printable(out)} is there already.", "Name a folder that is new or empty.")
    for folder in found_in:
        if place.is_relative_to(folder.resolve()):
            raise UsageError(
                f"--repair: {printable(out)} is inside the folder of the pictures {printable(folder)}.",
                "Name a folder outside: nothing is changed in place.",
            )


def repair(report: Report, found: Survey, out: Path, told: Told = lambda *_: None) -> Repaired:
    """Write the copy. Kohya's layout is kept; folders of a dataset configuration become `<repeats>_<name>`.

    Raises:
        UsageError: the place cannot be, the pictures have masks, which would no longer fit, or kohya_exact is on.
        StorageError: no space or no permission.
    """
    dataset = found.config.dataset
    named = (dataset.train_data_dir, dataset.reg_data_dir, dataset.validation_data_dir)
    folders = [expanded(name) for name in named if name and not dataset.dataset_config]
    require_place([*folders, *(subset.path for subset in found.scan.subsets)], out)
    if any(picture.mask_path for subset in found.scan.subsets for picture in subset.pictures):
        raise UsageError("--repair does not go with masks.", "They would not fit pictures that are cropped.")
    if found.config.training.kohya_exact:
        raise UsageError("--repair does not go with training.kohya_exact.", "The copy is for both: switch it off here.")
    work = _Work(report, found)
    jobs = [(work.folder(out, subset), subset, picture) for subset in found.scan.subsets for picture in subset.pictures]
    done = Repaired(out)
    try:
        _require_space(out, jobs)
        for number, (folder, subset, picture) in enumerate(jobs, 1):
            told("writing the copy", number, len(jobs))
            work.write(folder, subset, picture, done)
    except OSError as error:
        raise StorageError(f"{printable(out)} cannot be written: {error.strerror or error}.") from error
    done.left_out += [rejected.path for rejected in found.scan.rejected]
    return done


class _Work:
    """What is to be done with each picture."""

    def __init__(self, report: Report, found: Survey) -> None:
        self.found = found
        codes = {kind.code for kind in _REDRAWN}
        named = {finding.kind.code: finding for finding in report.findings}
        self.redrawn = {path for code in codes if code in named for path in named[code].pictures}
        if files.TRANSPARENT.code in named and found.config.dataset.alpha_mask:
            self.redrawn -= set(named[files.TRANSPARENT.code].pictures)
        renamed = named.get(files.WRONG_NAME.code)
        self.renamed = set(renamed.pictures) if renamed else set()
        lacking = named.get(texts.NO_TRIGGER.code)
        self.lacking = set(lacking.pictures) if lacking else set()
        self.left_out = {rejected.path for rejected in found.broken} | set(self._extra(named))
        self.folders: dict[tuple[str, Path], Path] = {}
        self.taken: set[Path] = set()

    def _extra(self, named: dict[str, Finding]) -> Iterator[Path]:
        """Of copies all but one: the first that has a caption."""
        if duplicates.DUPLICATE.code not in named:
            return
        role = {picture.path: (subset.is_reg, subset.is_validation)
                for subset in self.found.scan.subsets for picture in subset.pictures}  # fmt: skip
        for group in self.found.copies.exact:
            keep = next((picture for picture in group if picture.caption), group[0])
            yield from (one.path for one in group if one is not keep and role[one.path] == role[keep.path])

    def folder(self, out: Path, subset: Subset) -> Path:
        """Where the pictures of a subset go."""
        dataset = self.found.config.dataset
        kind = "regularization_images" if subset.is_reg else ""
        known = (kind, subset.path)
        if known in self.folders:
            return self.folders[known]
        root = {"": dataset.train_data_dir, "regularization_images": dataset.reg_data_dir}[kind]
        if subset.is_validation and dataset.validation_data_dir and not self._trained_too(subset):
            kind, root = "held_out_images", dataset.validation_data_dir
        name = subset.path.name
        if dataset.dataset_config or not root:
            name, number = f"{subset.num_repeats}_{subset.path.name}", 1
            while out / kind / name in self.folders.values():
                number += 1
                name = f"{subset.num_repeats}_{subset.path.name}-{number}"
        elif subset.path == expanded(root):
            name = ""
        self.folders[known] = out / kind / name
        return self.folders[known]

    def _trained_too(self, subset: Subset) -> bool:
        return any(one.path == subset.path for one in self.found.scan.train_subsets)

    def write(self, folder: Path, subset: Subset, picture: Picture, done: Repaired) -> None:
        """One picture with its caption."""
        path = picture.path
        if path in self.left_out:
            done.left_out.append(path)
            return
        folder.mkdir(parents=True, exist_ok=True)
        redraw = path in self.redrawn
        suffix = ".png" if redraw else _SUFFIXES[picture.format] if path in self.renamed else path.suffix
        target = self._free(folder, path.stem, suffix)
        if redraw:
            try:
                self._redraw(picture, target)
            except UnusablePicture:
                done.left_out.append(path)  # it has changed since it was looked at
                return
            done.redrawn += 1
        else:
            with atomic.replacing(target) as temporary:
                shutil.copy2(path, temporary)
            done.copied += 1
        done.renamed += target.name != path.name
        done.captions += self._caption(subset, picture, target)

    def _free(self, folder: Path, stem: str, suffix: str) -> Path:
        """A name whose stem no other picture has: captions go by the stem."""
        target, number = folder / f"{stem}{suffix}", 1
        while target.with_suffix("") in self.taken:
            number += 1
            target = folder / f"{stem}-{number}{suffix}"
        self.taken.add(target.with_suffix(""))
        return target

    def _redraw(self, picture: Picture, target: Path) -> None:
        image = flatten(
            decode(picture.path, (picture.width, picture.height)), self.found.config.dataset.alpha_background
        )[0]
        # one line more: compression has mixed the bar into the picture's edge
        left, top, right, bottom = (margin and margin + 1 for margin in self.found.measures[picture.path].margins)
        image = image.crop((left, top, image.width - right, image.height - bottom))
        with atomic.replacing(target) as temporary:
            image.save(temporary, "PNG")

    def _caption(self, subset: Subset, picture: Picture, target: Path) -> bool:
        """Write the caption; whether it is another one than before."""
        table = self.found.table(subset)
        trigger = self.found.config.dataset.class_tokens or ""
        source = picture.caption_path
        if picture.path in self.lacking and picture.caption:
            lines = picture.caption.split("\n")
            lines = [
                one if has_word(one, trigger) else with_trigger(one, trigger, table.caption_separator) for one in lines
            ]
            suffix = source.suffix if source else table.caption_extension
            atomic.write_text(target.with_name(target.stem + suffix), "\n".join(lines) + "\n")
            return True
        if source is not None:
            with atomic.replacing(target.with_name(target.stem + source.suffix)) as temporary:
                shutil.copy2(source, temporary)
        elif picture.caption:  # from metadata
            atomic.write_text(target.with_name(target.stem + table.caption_extension), picture.caption + "\n")
        return False


def _require_space(out: Path, jobs: list[tuple[Path, Subset, Picture]]) -> None:
    there = next(parent for parent in (out, *out.absolute().parents) if parent.is_dir())
    needed = sum(picture.path.stat().st_size for _, _, picture in jobs if picture.path.exists())
    atomic.require_space(there, needed, "the copy")
