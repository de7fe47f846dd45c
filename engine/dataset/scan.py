"""Finding the images and captions of a configuration: headers only, in parallel, in little memory."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.config.schema import RunConfig
from engine.dataset import auto_validation
from engine.dataset.checked import CheckedImages
from engine.dataset.configured import masks_by_name
from engine.dataset.decoding import UnusableImage, check_pixels, read_header
from engine.dataset.fitted import FittedImages
from engine.dataset.folders import caption_extensions, nfc_name, read_caption
from engine.dataset.images import ONLY_FIRST_LINE, ImageInfo, Rejected, Scan, Subset
from engine.dataset.parts import Part, as_kohya, find_parts
from engine.dataset.pool import ordered_map, workers
from engine.errors import DataError
from engine.text import listing, plural, printable
from engine.types import Progress

SAVED_EVERY = 1000
"""Images between two saves: at most so many are checked again after a kill."""
_DEFAULT_EXPOSURES = 400
"""Repeats x images of a plain folder: usual for short LoRA runs."""


def scan(config: RunConfig, progress: Progress | None = None) -> Scan:
    """Scan the folders of a configuration.

    Args:
        config: `dataset` and `saving.output_name` are used.
        progress: called with (read, total) images.

    Raises:
        UsageError: no folder is set, or one folder has two roles.
        DataError: a folder is missing or unreadable, has no usable image, or too few; a caption is not UTF-8.
    """
    result, bad = survey(config, progress)
    _raise_bad_captions(list(bad.values()))
    result.require_enough()
    return result


def survey(config: RunConfig, progress: Progress | None = None) -> tuple[Scan, dict[Path, DataError]]:
    """Scan without raising for bad images and captions: a scan that may be empty, and errors of captions by image.

    Raises:
        UsageError: no folder is set, or one folder has two roles.
        DataError: a folder is missing, unreadable, or without any image file.
    """
    parts, rejected, notes = find_parts(config)
    all_parts = parts
    if config.training.kohya_exact:
        parts = [as_kohya(part, rejected) for part in parts]
    jobs = [(part, path) for part in parts for path in part.source.folder.images]
    read = _reader(config)
    results: list[ImageInfo | Rejected] = []
    bad: dict[Path, DataError] = {}
    with _quiet_pillow():
        for result, error in ordered_map(read, jobs, workers(8), ahead=64):
            results.append(result)
            if error is not None:
                bad[result.path] = error
            if progress is not None:
                progress(len(results), len(jobs))
    rejected += [result for result in results if isinstance(result, Rejected)]
    subsets: list[Subset] = []
    owners: list[Part] = []
    images_by_part = _by_part(parts, results)
    validation = _auto_validation(parts, images_by_part, config)
    for part, images in zip(parts, images_by_part, strict=True):
        part_subsets = _subsets(part, images, validation, config, notes)
        subsets += part_subsets
        owners += [part] * len(part_subsets)
    if config.dataset.masked_loss:
        subsets = [_masked(subset, part_of, config, notes) for subset, part_of in zip(subsets, owners, strict=True)]
    used = {result.caption_path for result in results if isinstance(result, ImageInfo)}
    orphans = tuple(path for part in all_parts for path in _orphans(part, config, used))
    return Scan(tuple(subsets), tuple(rejected), notes, config.dataset.min_images, orphans), bad


def _by_part(parts: Sequence[Part], results: Sequence[ImageInfo | Rejected]) -> list[list[ImageInfo]]:
    """The usable images of each part, from the results of all parts in order."""
    images_by_part, position = [], 0
    for part in parts:
        count = len(part.source.folder.images)
        images_by_part.append(
            [result for result in results[position : position + count] if isinstance(result, ImageInfo)]
        )
        position += count
    return images_by_part


def _auto_validation(parts: Sequence[Part], images_by_part: Sequence[list[ImageInfo]], config: RunConfig) -> set[Path]:
    """Training images that `engine.dataset.auto_validation` uses for validation instead."""
    if not config.sets_aside:
        return set()
    pairs = zip(parts, images_by_part, strict=True)
    training = [image for part, images in pairs if part.role == "train" for image in images]
    return {image.path for image in auto_validation.choose(training, config.dataset.validation_seed)}


def _orphans(part: Part, config: RunConfig, used: set[Path | None]) -> list[Path]:
    """Caption files of a folder that belong to no image in it; none if captions are from metadata."""
    if part.configured is not None and part.configured.captions is not None:
        return []
    extensions = caption_extensions(part.table(config).caption_extension, only=config.training.kohya_exact)
    return part.source.folder.without_image({path for path in used if path is not None}, extensions)


def verify_pixels(
    scanned: Scan,
    progress: Progress | None = None,
    checked: CheckedImages | None = None,
    fitted: FittedImages | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Scan:
    """Reject images that are broken behind an intact header, by decoding each.

    Args:
        progress: called with (done, total) images.
        checked: images known to decode, which are skipped.
        fitted: keeps the decoded images that it asked for, if `checked` is given.
        should_stop: called before each image; after True the result is incomplete.

    Raises:
        DataError: fewer than `min_images` training images remain.
    """
    images = [image for subset in scanned.subsets for image in subset.images]

    def check(image: ImageInfo) -> Rejected | None:
        key = None if checked is None else checked.key(image)
        if should_stop() or (checked is not None and key in checked):
            return None
        decoded = None if fitted is None else fitted.decode(image)
        try:
            if decoded is None:
                check_pixels(image.path, (image.width, image.height), turn=not image.kohya_exact)
        except UnusableImage as error:
            return Rejected(image.path, str(error))
        if checked is not None and key is not None and checked.key(image) == key:  # not replaced meanwhile
            checked.add(key)
            if fitted is not None and decoded is not None:
                fitted.keep(key, decoded)
        return None

    broken = []
    try:
        with _quiet_pillow():
            for done, rejected in enumerate(ordered_map(check, images, workers(4), ahead=16), 1):
                if rejected is not None:
                    broken.append(rejected)
                if progress is not None:
                    progress(done, len(images))
                if checked is not None and done % SAVED_EVERY == 0:
                    checked.save()
    finally:
        if checked is not None:
            checked.save()
    return scanned.without(broken)


def split(
    images: list[ImageInfo], share: float, seed: int, *, kohya_exact: bool = False
) -> tuple[list[ImageInfo], list[ImageInfo]]:
    """(training, validation) images: Kohya's shuffle and rounding.

    Args:
        kohya_exact: also Kohya's rounding of the second part, where one image may be in both.
    """
    shuffled = list(images)
    random.Random(seed).shuffle(shuffled)
    keep = math.ceil(len(shuffled) * (1 - share))
    first_validation = len(shuffled) - round(len(shuffled) * share) if kohya_exact else keep
    return shuffled[:keep], shuffled[first_validation:]


def default_repeats(images: int) -> int:
    """Repeats of a plain folder: round(400 / images), at least 1."""
    return max(1, round(_DEFAULT_EXPOSURES / max(1, images)))


def _masked(subset: Subset, part: Part, config: RunConfig, notes: list[str]) -> Subset:
    """The subset with the mask of each image, if masks are configured for it."""
    own = None if part.configured is None else part.configured.spec.conditioning_data_dir
    masks = own or (config.dataset.conditioning_data_dir if part.configured is None else None)
    if not masks or subset.is_reg:
        return subset
    mask_files = masks_by_name(masks, part.source)
    images = tuple(replace(image, mask_path=mask_files.get(nfc_name(image.path.stem))) for image in subset.images)
    without = [printable(image.path.name) for image in images if image.mask_path is None]
    if len(without) == len(images):
        raise DataError(
            f"None of the {plural(len(images), 'image')} in {printable(subset.path)} has a mask in {printable(masks)}.",
            "A mask has the name of its image; the extension may differ.",
            code="no-mask",
        )
    if without:
        notes.append(f"{plural(len(without), 'image')} without a mask have full loss weight: {listing(without)}")
    return replace(subset, images=images)


_Read = tuple[ImageInfo | Rejected, DataError | None]
"""A file, and the error of its caption."""


def _reader(config: RunConfig) -> Callable[[tuple[Part, Path]], _Read]:
    """A function that reads one file; it runs in threads and returns errors instead of raising."""
    limit, exact = config.dataset.max_image_megapixels, config.training.kohya_exact

    def read(job: tuple[Part, Path]) -> _Read:
        part, path = job
        table = part.table(config)
        all_lines = table.enable_wildcard
        try:
            header = read_header(path, limit, turn=not exact)
        except UnusableImage as error:
            return Rejected(path, str(error)), None
        image = ImageInfo(path, header.width, header.height, header.format, notes=header.notes, kohya_exact=exact)
        if part.configured is not None and part.configured.captions is not None:
            return replace(image, caption=part.configured.captions[path]), None
        extensions = caption_extensions(table.caption_extension, only=exact)
        caption_path = part.source.folder.caption_of(path, extensions, exact=exact)
        if caption_path is None:
            return image, None
        try:
            caption, lines = read_caption(caption_path, all_lines=all_lines, kohya_exact=exact)
        except DataError as error:
            return image, error
        extra = () if all_lines or lines <= 1 else (ONLY_FIRST_LINE,)
        return replace(image, caption=caption, caption_path=caption_path, notes=image.notes + extra), None

    return read


def _raise_bad_captions(errors: list[DataError]) -> None:
    if len(errors) == 1:
        raise errors[0]
    if errors:
        messages = " ".join(error.message for error in errors[:3])
        more = f" And {len(errors) - 3} more." if len(errors) > 3 else ""
        hints = " ".join(dict.fromkeys(error.hint for error in errors if error.hint))
        raise DataError(f"{len(errors)} captions cannot be used. {messages}{more}", hints, code="captions-unusable")


def _subsets(
    part: Part, images: list[ImageInfo], auto_validation_paths: set[Path], config: RunConfig, notes: list[str]
) -> list[Subset]:
    """The subset of a folder, or two if it has validation images; decisions go to `notes`.

    Args:
        auto_validation_paths: images chosen by `engine.dataset.auto_validation`.
    """
    table = part.table(config)
    folder = part.source.folder.path
    tokens = part.class_tokens(config)
    if part.role == "validation":
        return [Subset(folder, 1, tokens, False, True, tuple(images))]
    own: dict[str, Any] = {}
    if part.configured is not None:
        spec = part.configured.spec
        own = {"spec": spec, "tags": part.configured.tags}
        if config.dataset.dataset_config:
            own |= {"table": spec.table, "dataset": spec.dataset, "batch_size": spec.batch_size}
    if part.role == "reg":
        return [Subset(folder, part.source.num_repeats or 1, tokens, True, False, tuple(images), **own)]
    validation = [image for image in images if image.path in auto_validation_paths]
    if validation:
        names = listing([printable(image.path.name) for image in validation])
        total, images = len(images), [image for image in images if image.path not in auto_validation_paths]
        notes.append(
            f"{len(validation)} of {total} images in {printable(folder)} are used for validation: {names} "
            "(dataset.validation_split = 0 trains on them too)"
        )
    elif table.validation_split:
        total = len(images)
        images, validation = split(
            images, table.validation_split, table.validation_seed, kohya_exact=config.training.kohya_exact
        )
        overlap = len(images) + len(validation) - total
        notes.append(
            f"{plural(len(validation), 'image')} of {printable(folder)} used for validation: "
            f"dataset.validation_split = {table.validation_split:g} of {total}"
            + (f"; {overlap} of them also trained on, as in Kohya (kohya_exact)" if overlap else "")
        )
    named = part.source.num_repeats
    if table.num_repeats is not None:
        repeats = table.num_repeats
        if named not in (None, repeats):
            notes.append(
                f"{printable(folder)}: {plural(repeats, 'repeat')} from dataset.num_repeats, not {named} from its name"
            )
    elif named is not None:
        repeats = named
    else:
        repeats = default_repeats(len(images))
        notes.append(
            f"{printable(folder)}: {plural(repeats, 'repeat')} ({_DEFAULT_EXPOSURES} / "
            f"{plural(len(images), 'image')}, rounded, at least 1)"
        )
    subsets = [Subset(folder, repeats, tokens, False, False, tuple(images), **own)]
    if validation:
        subsets.append(Subset(folder, 1, tokens, False, True, tuple(validation), **own))
    return subsets


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Ignore Pillow's warnings about odd metadata; set once outside the threads, as the filter is global."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
