"""Finding the pictures and captions of a configuration: headers only, in parallel, in little memory."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from engine.config.dataset import DatasetTable
from engine.config.schema import RunConfig
from engine.dataset.configured import ConfiguredSource, configured_sources, masks_by_name
from engine.dataset.decoding import KOHYA_EXTENSIONS, UnusablePicture, check_pixels, read_header
from engine.dataset.folders import Source, caption_extensions, composed_name, find_sources, read_caption
from engine.dataset.pictures import ONLY_FIRST_LINE, Picture, Rejected, Scan, Subset
from engine.dataset.pool import Progress, ordered_map, workers
from engine.errors import DataError, UsageError
from engine.text import listing, plural, printable

Role = Literal["train", "reg", "validation"]

_KEYS: dict[Role, str] = {"train": "train_data_dir", "reg": "reg_data_dir", "validation": "validation_data_dir"}
_FAMILIAR_EXPOSURES = 400
"""Repeats x pictures of a plain folder: what short LoRA runs of any size are usually given."""


@dataclass(frozen=True)
class _Part:
    """One subset to be, with its role."""

    source: Source
    role: Role
    configured: ConfiguredSource | None = None
    """Where it comes from a dataset configuration."""

    def table(self, config: RunConfig) -> DatasetTable:
        """The settings that hold for it."""
        return config.dataset if self.configured is None else self.configured.spec.table


def scan(config: RunConfig, progress: Progress | None = None) -> Scan:
    """Find everything that the configuration's folders hold.

    Args:
        config: `dataset` and `saving.output_name` are read.
        progress: told (read, total) pictures.

    Raises:
        UsageError: no folder is named, or one folder has two roles.
        DataError: a folder is missing or unreadable, has no usable picture, or too few; a caption is not UTF-8.
    """
    found, bad = survey(config, progress)
    _raise_bad_captions(list(bad.values()))
    found.require_enough()
    return found


def survey(config: RunConfig, progress: Progress | None = None) -> tuple[Scan, dict[Path, DataError]]:
    """The same where not everything is in order: a scan that may be empty, and why captions of pictures in it cannot be
    used.

    Raises:
        UsageError: no folder is named, or one folder has two roles.
        DataError: a folder is missing, unreadable, or without any picture file.
    """
    parts, rejected, notes = _find_parts(config)
    whole = parts
    if config.training.kohya_exact:
        parts = [_as_kohya(part, rejected) for part in parts]
    jobs = [(part, path) for part in parts for path in part.source.folder.pictures]
    read = _reader(config)
    results: list[Picture | Rejected] = []
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
    owners: list[_Part] = []
    position = 0
    for part in parts:
        count = len(part.source.folder.pictures)
        pictures = [result for result in results[position : position + count] if isinstance(result, Picture)]
        position += count
        made = _subsets(part, pictures, config, notes)
        subsets += made
        owners += [part] * len(made)
    if config.dataset.masked_loss:
        subsets = [_masked(subset, part_of, config, notes) for subset, part_of in zip(subsets, owners, strict=True)]
    used = {result.caption_path for result in results if isinstance(result, Picture)}
    orphans = tuple(path for part in whole for path in _orphans(part, config, used))
    return Scan(tuple(subsets), tuple(rejected), notes, config.dataset.min_images, orphans), bad


def _orphans(part: _Part, config: RunConfig, used: set[Path | None]) -> list[Path]:
    """Caption files of a folder whose captions are read and that belong to no picture in it."""
    if part.configured is not None and part.configured.captions is not None:
        return []
    extensions = caption_extensions(part.table(config).caption_extension, only=config.training.kohya_exact)
    return part.source.folder.without_picture({path for path in used if path is not None}, extensions)


def verify_pixels(found: Scan, progress: Progress | None = None) -> Scan:
    """Decode every picture once and set aside those that are broken behind an intact header.

    Raises:
        DataError: fewer than `min_images` training pictures remain.
    """
    pictures = [picture for subset in found.subsets for picture in subset.pictures]

    def check(picture: Picture) -> Rejected | None:
        try:
            check_pixels(picture.path, (picture.width, picture.height), turn=not picture.kohya_exact)
        except UnusablePicture as error:
            return Rejected(picture.path, str(error))
        return None

    broken = []
    with _quiet_pillow():
        for done, verdict in enumerate(ordered_map(check, pictures, workers(4), ahead=16), 1):
            if verdict is not None:
                broken.append(verdict)
            if progress is not None:
                progress(done, len(pictures))
    return found.without(broken)


def split(
    pictures: list[Picture], share: float, seed: int, *, kohya_exact: bool = False
) -> tuple[list[Picture], list[Picture]]:
    """(training, held-out) pictures: Kohya's shuffle and rounding.

    Args:
        kohya_exact: with Kohya's rounding of the second half too, where one picture may be in both.
    """
    shuffled = list(pictures)
    random.Random(seed).shuffle(shuffled)
    keep = math.ceil(len(shuffled) * (1 - share))
    held_out = len(shuffled) - round(len(shuffled) * share) if kohya_exact else keep
    return shuffled[:keep], shuffled[held_out:]


def familiar_repeats(pictures: int) -> int:
    """Repeats of a plain folder: round(400 / pictures), at least 1."""
    return max(1, round(_FAMILIAR_EXPOSURES / max(1, pictures)))


def _find_parts(config: RunConfig) -> tuple[list[_Part], list[Rejected], list[str]]:
    if config.dataset.dataset_config:
        return _configured_parts(config)
    if not config.dataset.train_data_dir:
        raise UsageError("dataset.train_data_dir is not set.", "Name the folder of the pictures with --images DIR.")
    parts: list[_Part] = []
    rejected: list[Rejected] = []
    notes: list[str] = []
    roles: dict[Path, str] = {}
    for role, name in _KEYS.items():
        value = getattr(config.dataset, name)
        if not value:
            continue
        sources, aside, said = find_sources(_expanded(value), f"dataset.{name}")
        for source in sources:
            place = source.folder.path.resolve()
            if place in roles:
                raise UsageError(
                    f"dataset.{name} and dataset.{roles[place]} both use the folder {printable(place)}.",
                    "A picture is trained on, regularizes or is held out, one of the three.",
                )
            roles[place] = name
        parts += [_Part(source, role) for source in sources]
        rejected += aside
        notes += said
    return parts, rejected, notes


def _configured_parts(config: RunConfig) -> tuple[list[_Part], list[Rejected], list[str]]:
    """The subsets of a dataset configuration; the folders of `[dataset]` are then not read."""
    table = config.dataset
    assert table.dataset_config
    found, notes = configured_sources(_expanded(table.dataset_config), config)
    ignored = [f"dataset.{name}" for name in ("train_data_dir", "reg_data_dir") if getattr(table, name)]
    if ignored:
        notes.insert(0, f"{' and '.join(ignored)} not read: dataset.dataset_config is set")
    parts = [_Part(one.source, "reg" if one.spec.is_reg else "train", one) for one in found]
    if not any(part.role == "train" for part in parts):
        raise DataError(f"{printable(table.dataset_config)} has no subset to train on: all are is_reg.", "Add one.")
    rejected = [entry for one in found for entry in one.source.folder.rejected]
    if table.validation_data_dir:
        sources, aside, said = find_sources(_expanded(table.validation_data_dir), "dataset.validation_data_dir")
        parts += [_Part(source, "validation") for source in sources]
        rejected, notes = [*rejected, *aside], [*notes, *said]
    return parts, rejected, notes


def _as_kohya(part: _Part, rejected: list[Rejected]) -> _Part:
    """The part without pictures that Kohya's scripts would not see; they go to `rejected`."""
    folder = part.source.folder
    seen = tuple(
        path for path in folder.pictures
        if path.suffix.lower() in KOHYA_EXTENSIONS and path.suffix in (path.suffix.lower(), path.suffix.upper())
    )  # fmt: skip
    reason = "Kohya's scripts do not read this kind of file (kohya_exact)"
    left_out = set(folder.pictures).difference(seen)
    rejected += [Rejected(path, reason) for path in folder.pictures if path in left_out]
    return replace(part, source=replace(part.source, folder=replace(folder, pictures=seen)))


def _masked(subset: Subset, part: _Part, config: RunConfig, notes: list[str]) -> Subset:
    """The subset with the mask of each picture, where masks are named for it."""
    own = None if part.configured is None else part.configured.spec.conditioning_data_dir
    masks = own or (config.dataset.conditioning_data_dir if part.configured is None else None)
    if not masks or subset.is_reg:
        return subset
    found = masks_by_name(masks, part.source)
    pictures = tuple(
        replace(picture, mask_path=found.get(composed_name(picture.path.stem))) for picture in subset.pictures
    )
    without = [printable(picture.path.name) for picture in pictures if picture.mask_path is None]
    if len(without) == len(pictures):
        raise DataError(
            f"None of the {plural(len(pictures), 'picture')} in {printable(subset.path)} has a mask in "
            f"{printable(masks)}.",
            "A mask has the name of its picture; the extension may differ.",
        )
    if without:
        notes.append(f"{plural(len(without), 'picture')} without a mask count wholly: {listing(without)}")
    return replace(subset, pictures=pictures)


def _expanded(value: str) -> Path:
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return Path(value)  # no such user: a folder may really be called ~name


_Read = tuple[Picture | Rejected, DataError | None]
"""A file, and why its caption cannot be used."""


def _reader(config: RunConfig) -> Callable[[tuple[_Part, Path]], _Read]:
    """The work for one file; runs in threads, so that it returns what it can't do instead of raising."""
    limit, exact = config.dataset.max_image_megapixels, config.training.kohya_exact

    def read(job: tuple[_Part, Path]) -> _Read:
        part, path = job
        table = part.table(config)
        all_lines = table.enable_wildcard
        try:
            header = read_header(path, limit, turn=not exact)
        except UnusablePicture as error:
            return Rejected(path, str(error)), None
        picture = Picture(path, header.width, header.height, header.format, notes=header.notes, kohya_exact=exact)
        if part.configured is not None and part.configured.captions is not None:
            return replace(picture, caption=part.configured.captions[path]), None
        extensions = caption_extensions(table.caption_extension, only=exact)
        caption_path = part.source.folder.caption_of(path, extensions, exact=exact)
        if caption_path is None:
            return picture, None
        try:
            caption, lines = read_caption(caption_path, all_lines=all_lines, kohya_exact=exact)
        except DataError as error:
            return picture, error
        extra = () if all_lines or lines <= 1 else (ONLY_FIRST_LINE,)
        return replace(picture, caption=caption, caption_path=caption_path, notes=picture.notes + extra), None

    return read


def _raise_bad_captions(errors: list[DataError]) -> None:
    if len(errors) == 1:
        raise errors[0]
    if errors:
        messages = " ".join(error.message for error in errors[:3])
        more = f" And {len(errors) - 3} more." if len(errors) > 3 else ""
        hints = " ".join(dict.fromkeys(error.hint for error in errors if error.hint))
        raise DataError(f"{len(errors)} captions cannot be used. {messages}{more}", hints)


def _subsets(part: _Part, pictures: list[Picture], config: RunConfig, notes: list[str]) -> list[Subset]:
    """The subset of a folder, or two where a share of it is held out; decisions go to `notes`."""
    table = part.table(config)
    folder = part.source.folder.path
    tokens = _class_tokens(part, config)
    if part.role == "validation":
        return [Subset(folder, 1, tokens, False, True, tuple(pictures))]
    own: dict[str, Any] = {}
    if part.configured is not None:
        spec = part.configured.spec
        own = {"table": spec.table, "dataset": spec.dataset, "batch_size": spec.batch_size, "spec": spec,
               "tags": part.configured.tags}  # fmt: skip
    if part.role == "reg":
        return [Subset(folder, part.source.num_repeats or 1, tokens, True, False, tuple(pictures), **own)]
    held_out: list[Picture] = []
    if table.validation_split > 0:
        every = len(pictures)
        pictures, held_out = split(
            pictures, table.validation_split, table.validation_seed, kohya_exact=config.training.kohya_exact
        )
        overlap = len(pictures) + len(held_out) - every
        notes.append(
            f"{plural(len(held_out), 'picture')} of {printable(folder)} held out: dataset.validation_split = "
            f"{table.validation_split:g} of {every}"
            + (f"; {overlap} of them trained on as well, as Kohya does (kohya_exact)" if overlap else "")
        )
    named = part.source.num_repeats
    if table.num_repeats is not None:
        repeats = table.num_repeats
        if named not in (None, repeats):
            notes.append(
                f"{printable(folder)}: {plural(repeats, 'repeat')} from dataset.num_repeats, not {named} as in its name"
            )
    elif named is not None:
        repeats = named
    else:
        repeats = familiar_repeats(len(pictures))
        notes.append(
            f"{printable(folder)}: {plural(repeats, 'repeat')} ({_FAMILIAR_EXPOSURES} / "
            f"{plural(len(pictures), 'picture')}, rounded, at least 1)"
        )
    subsets = [Subset(folder, repeats, tokens, False, False, tuple(pictures), **own)]
    if held_out:
        subsets.append(Subset(folder, 1, tokens, False, True, tuple(held_out), **own))
    return subsets


def _class_tokens(part: _Part, config: RunConfig) -> str:
    """The caption of pictures without one; the trigger never becomes the class of regularization pictures."""
    if part.configured is not None:
        return part.configured.spec.class_tokens
    if part.role == "reg":
        return part.source.name
    return config.dataset.class_tokens or part.source.name or config.saving.output_name


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Pillow warns about odd metadata, which we don't use; set once outside the threads, as the filter is global."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
