"""Finding the pictures and captions of a configuration: headers only, in parallel, in little memory."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from engine.config.schema import RunConfig
from engine.dataset.decoding import UnusablePicture, check_pixels, read_header
from engine.dataset.folders import Source, caption_extensions, find_sources, read_caption
from engine.dataset.pictures import Picture, Rejected, Scan, Subset
from engine.dataset.pool import Progress, ordered_map, workers
from engine.errors import DataError, UsageError
from engine.text import plural, printable

Role = Literal["train", "reg", "validation"]

_KEYS: dict[Role, str] = {"train": "train_data_dir", "reg": "reg_data_dir", "validation": "validation_data_dir"}
_FAMILIAR_EXPOSURES = 400
"""Repeats x pictures of a plain folder: what short LoRA runs of any size are usually given."""


@dataclass(frozen=True)
class _Part:
    """One subset to be, with its role."""

    source: Source
    role: Role


def scan(config: RunConfig, progress: Progress | None = None) -> Scan:
    """Find everything that the configuration's folders hold.

    Args:
        config: `dataset` and `saving.output_name` are read.
        progress: told (read, total) pictures.

    Raises:
        UsageError: no folder is named, or one folder has two roles.
        DataError: a folder is missing or unreadable, has no usable picture, or too few; a caption is not UTF-8.
    """
    parts, rejected, notes = _find_parts(config)
    jobs = [(part, path) for part in parts for path in part.source.folder.pictures]
    read = _reader(config)
    results: list[Picture | Rejected | DataError] = []
    with _quiet_pillow():
        for result in ordered_map(read, jobs, workers(8), ahead=64):
            results.append(result)
            if progress is not None:
                progress(len(results), len(jobs))
    _raise_bad_captions([result for result in results if isinstance(result, DataError)])
    rejected += [result for result in results if isinstance(result, Rejected)]
    subsets = []
    position = 0
    for part in parts:
        count = len(part.source.folder.pictures)
        pictures = [result for result in results[position : position + count] if isinstance(result, Picture)]
        position += count
        subsets += _subsets(part, pictures, config, notes)
    found = Scan(tuple(subsets), tuple(rejected), notes, config.dataset.min_images)
    found.require_enough()
    return found


def verify_pixels(found: Scan, progress: Progress | None = None) -> Scan:
    """Decode every picture once and set aside those that are broken behind an intact header.

    Raises:
        DataError: fewer than `min_images` training pictures remain.
    """
    pictures = [picture for subset in found.subsets for picture in subset.pictures]

    def check(picture: Picture) -> Rejected | None:
        try:
            check_pixels(picture.path, (picture.width, picture.height))
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


def split(pictures: list[Picture], share: float, seed: int) -> tuple[list[Picture], list[Picture]]:
    """(training, held-out) pictures: Kohya's shuffle and rounding, without its overlap of one."""
    shuffled = list(pictures)
    random.Random(seed).shuffle(shuffled)
    keep = math.ceil(len(shuffled) * (1 - share))
    return shuffled[:keep], shuffled[keep:]


def familiar_repeats(pictures: int) -> int:
    """Repeats of a plain folder: round(400 / pictures), at least 1."""
    return max(1, round(_FAMILIAR_EXPOSURES / max(1, pictures)))


def _find_parts(config: RunConfig) -> tuple[list[_Part], list[Rejected], list[str]]:
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


def _expanded(value: str) -> Path:
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return Path(value)  # no such user: a folder may really be called ~name


def _reader(config: RunConfig) -> Callable[[tuple[_Part, Path]], Picture | Rejected | DataError]:
    """The work for one file; runs in threads, so that it returns what it can't do instead of raising."""
    extensions = caption_extensions(config.dataset.caption_extension)
    all_lines = config.dataset.enable_wildcard
    limit = config.dataset.max_image_megapixels

    def read(job: tuple[_Part, Path]) -> Picture | Rejected | DataError:
        part, path = job
        try:
            header = read_header(path, limit)
        except UnusablePicture as error:
            return Rejected(path, str(error))
        picture = Picture(path, header.width, header.height, header.format, notes=header.notes)
        caption_path = part.source.folder.caption_of(path, extensions)
        if caption_path is None:
            return picture
        try:
            caption, lines = read_caption(caption_path, all_lines=all_lines)
        except DataError as error:
            return error
        extra = () if all_lines or lines <= 1 else ("only the first line of its caption is used",)
        return replace(picture, caption=caption, caption_path=caption_path, notes=picture.notes + extra)

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
    table = config.dataset
    folder = part.source.folder.path
    tokens = _class_tokens(part, config)
    if part.role == "validation":
        return [Subset(folder, 1, tokens, False, True, tuple(pictures))]
    if part.role == "reg":
        return [Subset(folder, part.source.num_repeats or 1, tokens, True, False, tuple(pictures))]
    held_out: list[Picture] = []
    if table.validation_split > 0:
        pictures, held_out = split(pictures, table.validation_split, table.validation_seed)
        notes.append(
            f"{plural(len(held_out), 'picture')} of {printable(folder)} held out: dataset.validation_split = "
            f"{table.validation_split:g} of {len(pictures) + len(held_out)}"
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
    subsets = [Subset(folder, repeats, tokens, False, False, tuple(pictures))]
    if held_out:
        subsets.append(Subset(folder, 1, tokens, False, True, tuple(held_out)))
    return subsets


def _class_tokens(part: _Part, config: RunConfig) -> str:
    """The caption of pictures without one; the trigger never becomes the class of regularization pictures."""
    if part.role == "reg":
        return part.source.name
    return config.dataset.class_tokens or part.source.name or config.saving.output_name


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Pillow warns about odd metadata, which we don't use; set once outside the threads, as the filter is global."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
