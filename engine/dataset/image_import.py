"""Importing images and captions into a folder, by copy or link: continues after an interruption, overwrites nothing."""

from __future__ import annotations

import errno
import filecmp
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.atomic import sync_directory
from engine.dataset.folders import Folder
from engine.dataset.images import Rejected
from engine.dataset.pool import ordered_map, workers
from engine.errors import StorageError
from engine.reading import open_file
from engine.text import printable, size_text
from engine.types import Progress

ImportMethod = Literal["copy", "link"]
_TEMPORARY = re.compile(r"\.take-in-(\d+)-\d+\.tmp")
_NO_HARD_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES}
"""Other file system, other owner, too many links, or no support: a symbolic link may still work."""


@dataclass(frozen=True)
class Job:
    """One file to import."""

    source: Path
    target: Path
    is_image: bool


@dataclass(frozen=True)
class ImportPlan:
    """The files that belong in a folder, and those still missing there; made by `plan_import` before any writing."""

    folder: Path
    images: frozenset[Path]
    """Present and future paths of the source's images."""
    jobs: tuple[Job, ...]
    renamed: tuple[tuple[str, str], ...]
    """(name in the source, name here) of images whose name is used by another image here."""


def plan_import(source: Folder, target: Path, method: ImportMethod, extensions: tuple[str, ...]) -> ImportPlan:
    """Choose the target of each image and caption of `source`; reads only files with the same name and size.

    An image that already exists with the same content is not imported; with other content it gets a new name. An
    existing caption is kept: it may have been edited.

    Args:
        extensions: of caption files, in lower case with the dot.
    """
    jobs: list[Job] = []
    images: set[Path] = set()
    captions: set[Path] = set()
    renamed: list[tuple[str, str]] = []
    for image in source.images:
        place, missing = _place_for(image, target, method, images)
        images.add(place)
        if missing:
            jobs.append(Job(image, place, True))
        if place.name != image.name:
            renamed.append((image.name, place.name))
        for extension in extensions:
            caption = source.caption_of(image, (extension,))
            if caption is None:
                continue
            name = caption.name if place.name == image.name else place.stem + caption.suffix
            if target / name not in captions and not os.path.lexists(target / name):
                captions.add(target / name)
                jobs.append(Job(caption, target / name, False))
    return ImportPlan(target, frozenset(images), tuple(jobs), tuple(renamed))


def run_imports(
    intakes: Sequence[ImportPlan], method: ImportMethod, progress: Progress | None = None
) -> list[Rejected]:
    """Import the missing files; return those that could not be read.

    Interrupted at any moment, also by an exception of `progress`, it leaves complete files only; call it again to
    continue.

    Raises:
        StorageError: no space, or the file system has no links.
        OSError: the target cannot be written.
    """
    jobs = [job for intake in intakes for job in intake.jobs]
    for intake in intakes:
        intake.folder.mkdir(parents=True, exist_ok=True)
        _sweep(intake.folder)
    if intakes:
        _require_space(jobs, method, intakes[0].folder)
    unreadable: list[Rejected] = []
    for done, rejected in enumerate(ordered_map(_worker(method), jobs, workers(4), ahead=16), 1):
        if rejected is not None:
            unreadable.append(rejected)
        if progress is not None:
            progress(done, len(jobs))
    for intake in intakes:
        sync_directory(intake.folder)
    return unreadable


def _place_for(image: Path, target: Path, method: ImportMethod, reserved: set[Path]) -> tuple[Path, bool]:
    """The target of an image, and whether it is missing there."""
    place, number = target / image.name, 1
    while True:
        if place not in reserved:
            if not os.path.lexists(place) or (place.is_symlink() and not place.exists()):
                return place, True
            if same_content(image, place):
                return place, place.is_symlink() and method == "copy"
        number += 1
        place = target / f"{image.stem}-{number}{image.suffix}"


def same_content(first: Path, second: Path) -> bool:
    """Whether two files have the same content; compares bytes only if size and time do not decide."""
    try:
        a, b = first.stat(), second.stat()
        if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino):
            return True
        if a.st_size != b.st_size:
            return False
        return a.st_mtime_ns == b.st_mtime_ns or filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False


def _sweep(folder: Path) -> None:
    """Remove temporary files of killed processes."""
    with os.scandir(folder) as entries:
        left = [(entry.path, int(match[1])) for entry in entries if (match := _TEMPORARY.fullmatch(entry.name))]
    for path, pid in left:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            Path(path).unlink(missing_ok=True)
        except PermissionError:
            continue  # another user's process is alive


def _require_space(jobs: Sequence[Job], method: ImportMethod, target: Path) -> None:
    needed = 0
    for job in jobs:
        if method == "copy" or not job.is_image:
            with suppress(OSError):  # reported when it is copied
                needed += job.source.stat().st_size
    free = shutil.disk_usage(target).free
    if needed > free:
        raise StorageError(
            f"Not enough space in {printable(target)}: the images need {size_text(needed)}, {size_text(free)} are "
            "free.",
            "Free some space there, choose another place, or import them by link.",
            code="disk-full",
        )


def _worker(method: ImportMethod) -> Callable[[Job], Rejected | None]:
    def work(job: Job) -> Rejected | None:
        if method == "link" and job.is_image:
            _link(job)
            return None
        return _copy(job)

    return work


def _copy(job: Job) -> Rejected | None:
    """Copy one file with its time; it gets its name only when complete."""
    temporary = job.target.with_name(f".take-in-{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        reader = open_file(job.source)
    except OSError as error:
        return Rejected(job.source, error.strerror or str(error))
    try:
        with reader, temporary.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
            status = os.fstat(reader.fileno())
        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))
        temporary.replace(job.target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return None


def _link(job: Job) -> None:
    """A hard link, so that the image stays if the source is deleted; else a symbolic link."""
    real = job.source.resolve()
    if job.target.is_symlink():
        job.target.unlink()
    try:
        os.link(real, job.target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINK:
            raise
        try:
            job.target.symlink_to(real)
        except OSError as second:
            if second.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise
            raise StorageError(
                f"{printable(job.target.parent)} is on a file system without links.",
                "Import the images by copy.",
                code="links-not-possible",
            ) from second
