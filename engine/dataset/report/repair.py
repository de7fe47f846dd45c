"""A copy of the images with all safe repairs applied. The originals are never changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine import atomic
from engine.dataset.caption_files import has_word, with_trigger
from engine.dataset.decoding import UnusableImage, decode
from engine.dataset.images import ImageInfo, Subset
from engine.dataset.pixels import flatten
from engine.dataset.report import borders, duplicates, files, texts
from engine.dataset.report.findings import Finding, Report
from engine.dataset.report.survey import Survey
from engine.errors import StorageError, UsageError
from engine.paths import expanded
from engine.text import plural, printable
from engine.worker import OnProgress

_REENCODED = (
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
class RepairResult:
    """The result of a repair."""

    place: Path
    copied: int = 0
    reencoded: int = 0
    renamed: int = 0
    captions: int = 0
    left_out: list[Path] = field(default_factory=list)

    def line(self) -> str:
        """The result as one sentence."""
        parts = [f"{plural(self.copied + self.reencoded, 'image')}", f"{self.reencoded} of them re-encoded"]
        if self.renamed:
            parts.append(f"{self.renamed} renamed")
        parts += [f"{plural(self.captions, 'caption')} changed", f"{plural(len(self.left_out), 'file')} left out"]
        return f"Repaired copy in {printable(self.place)}: {', '.join(parts)}."


def require_new_folder(image_folders: list[Path], out: Path) -> None:
    """Refuse a folder for the copy that is in use.

    Raises:
        UsageError: it exists and is not empty, or is inside an image folder.
    """
    place = out.resolve()
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(
            f"--repair: {printable(out)} already exists.", "Choose a new or empty folder.", code="output-exists"
        )
    for folder in image_folders:
        if place.is_relative_to(folder.resolve()):
            raise UsageError(
                f"--repair: {printable(out)} is inside the image folder {printable(folder)}.",
                "Choose a folder outside: originals are never changed.",
                code="repair-folder-inside-images",
            )


def repair(report: Report, survey: Survey, out: Path, progress: OnProgress = lambda *_: None) -> RepairResult:
    """Write the copy. Kohya's layout is kept; folders of a dataset configuration become `<repeats>_<name>`.

    Raises:
        UsageError: the folder is not allowed, the images have masks, which would no longer fit, or kohya_exact is on.
        StorageError: no space or no permission.
    """
    dataset = survey.config.dataset
    names = (dataset.train_data_dir, dataset.reg_data_dir, dataset.validation_data_dir)
    folders = [expanded(name) for name in names if name and not dataset.dataset_config]
    require_new_folder([*folders, *(subset.path for subset in survey.scan.subsets)], out)
    if any(image.mask_path for subset in survey.scan.subsets for image in subset.images):
        raise UsageError(
            "--repair does not support masks.", "They would not fit cropped images.", code="repair-with-masks"
        )
    if survey.config.training.kohya_exact:
        raise UsageError(
            "--repair does not support training.kohya_exact.",
            "Switch it off here; the copy works with and without it.",
            code="repair-with-kohya-exact",
        )
    work = _Work(report, survey)
    jobs = [(work.folder(out, subset), subset, image) for subset in survey.scan.subsets for image in subset.images]
    done = RepairResult(out)
    try:
        _require_space(out, jobs)
        for number, (folder, subset, image) in enumerate(jobs, 1):
            progress("writing the copy", number, len(jobs))
            work.write(folder, subset, image, done)
    except OSError as error:
        raise StorageError(
            f"{printable(out)} cannot be written: {error.strerror or error}.", code="write-failed"
        ) from error
    done.left_out += [rejected.path for rejected in survey.scan.rejected]
    return done


class _Work:
    """The repairs of each image."""

    def __init__(self, report: Report, survey: Survey) -> None:
        self.survey = survey
        codes = {kind.code for kind in _REENCODED}
        by_code = {finding.kind.code: finding for finding in report.findings}
        self.reencoded = {path for code in codes if code in by_code for path in by_code[code].images}
        if files.TRANSPARENT.code in by_code and survey.config.dataset.alpha_mask:
            self.reencoded -= set(by_code[files.TRANSPARENT.code].images)
        renamed = by_code.get(files.WRONG_NAME.code)
        self.renamed = set(renamed.images) if renamed else set()
        without_trigger = by_code.get(texts.NO_TRIGGER.code)
        self.without_trigger = set(without_trigger.images) if without_trigger else set()
        self.left_out = {rejected.path for rejected in survey.broken} | set(self._extra(by_code))
        self.folders: dict[tuple[str, Path], Path] = {}
        self.used_stems: set[Path] = set()

    def _extra(self, by_code: dict[str, Finding]) -> Iterator[Path]:
        """All duplicates except one per group: the first with a caption."""
        if duplicates.DUPLICATE.code not in by_code:
            return
        role = {image.path: (subset.is_reg, subset.is_validation)
                for subset in self.survey.scan.subsets for image in subset.images}  # fmt: skip
        for group in self.survey.copies.exact:
            keep = next((image for image in group if image.caption), group[0])
            yield from (image.path for image in group if image is not keep and role[image.path] == role[keep.path])

    def folder(self, out: Path, subset: Subset) -> Path:
        """The target folder of a subset."""
        dataset = self.survey.config.dataset
        kind = "regularization_images" if subset.is_reg else ""
        key = (kind, subset.path)
        if key in self.folders:
            return self.folders[key]
        root = {"": dataset.train_data_dir, "regularization_images": dataset.reg_data_dir}[kind]
        if subset.is_validation and dataset.validation_data_dir and not self._also_trained(subset):
            kind, root = "validation_images", dataset.validation_data_dir
        name = subset.path.name
        if dataset.dataset_config or not root:
            name, number = f"{subset.num_repeats}_{subset.path.name}", 1
            while out / kind / name in self.folders.values():
                number += 1
                name = f"{subset.num_repeats}_{subset.path.name}-{number}"
        elif subset.path == expanded(root):
            name = ""
        self.folders[key] = out / kind / name
        return self.folders[key]

    def _also_trained(self, subset: Subset) -> bool:
        return any(other.path == subset.path for other in self.survey.scan.train_subsets)

    def write(self, folder: Path, subset: Subset, image: ImageInfo, done: RepairResult) -> None:
        """Write one image with its caption."""
        path = image.path
        if path in self.left_out:
            done.left_out.append(path)
            return
        folder.mkdir(parents=True, exist_ok=True)
        reencode = path in self.reencoded
        suffix = ".png" if reencode else _SUFFIXES[image.format] if path in self.renamed else path.suffix
        target = self._free(folder, path.stem, suffix)
        if reencode:
            try:
                self._reencode(image, target)
            except UnusableImage:
                done.left_out.append(path)  # it has changed since the scan
                return
            done.reencoded += 1
        else:
            with atomic.replacing(target) as temporary:
                shutil.copy2(path, temporary)
            done.copied += 1
        done.renamed += target.name != path.name
        done.captions += self._caption(subset, image, target)

    def _free(self, folder: Path, stem: str, suffix: str) -> Path:
        """A name with an unused stem: captions are matched by the stem."""
        target, number = folder / f"{stem}{suffix}", 1
        while target.with_suffix("") in self.used_stems:
            number += 1
            target = folder / f"{stem}-{number}{suffix}"
        self.used_stems.add(target.with_suffix(""))
        return target

    def _reencode(self, image: ImageInfo, target: Path) -> None:
        pixels = flatten(decode(image.path, (image.width, image.height)), self.survey.config.dataset.alpha_background)[
            0
        ]
        # one line more: compression blends the bar into the edge of the image
        left, top, right, bottom = (margin and margin + 1 for margin in self.survey.measures[image.path].margins)
        pixels = pixels.crop((left, top, pixels.width - right, pixels.height - bottom))
        with atomic.replacing(target) as temporary:
            pixels.save(temporary, "PNG")

    def _caption(self, subset: Subset, image: ImageInfo, target: Path) -> bool:
        """Write the caption; return whether it was changed."""
        table = self.survey.table(subset)
        trigger = self.survey.config.dataset.class_tokens or ""
        source = image.caption_path
        if image.path in self.without_trigger and image.caption:
            lines = image.caption.split("\n")
            lines = [
                line if has_word(line, trigger) else with_trigger(line, trigger, table.caption_separator)
                for line in lines
            ]
            suffix = source.suffix if source else table.caption_extension
            atomic.write_text(target.with_name(target.stem + suffix), "\n".join(lines) + "\n")
            return True
        if source is not None:
            with atomic.replacing(target.with_name(target.stem + source.suffix)) as temporary:
                shutil.copy2(source, temporary)
        elif image.caption:  # from metadata
            atomic.write_text(target.with_name(target.stem + table.caption_extension), image.caption + "\n")
        return False


def _require_space(out: Path, jobs: list[tuple[Path, Subset, ImageInfo]]) -> None:
    existing = next(parent for parent in (out, *out.absolute().parents) if parent.is_dir())
    needed = sum(image.path.stat().st_size for _, _, image in jobs if image.path.exists())
    atomic.require_space(existing, needed, "the copy")
