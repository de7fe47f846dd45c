"""Taking pictures and captions into a folder, by copy or by link: goes on where it was cut, overwrites nothing."""

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
from engine.dataset.pictures import Rejected
from engine.dataset.pool import Progress, ordered_map, workers
from engine.errors import StorageError
from engine.reading import open_file
from engine.text import printable, size_text

Way = Literal["copy", "link"]
_TEMPORARY = re.compile(r"\.take-in-(\d+)-\d+\.tmp")
_NO_HARD_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES}
"""Another file system, another owner, too many, or none at all: a symbolic link may still do."""


@dataclass(frozen=True)
class Job:
    """One file that is missing in the target."""

    source: Path
    target: Path
    is_picture: bool


@dataclass(frozen=True)
class Intake:
    """What belongs into a folder, and what of it is missing there. Made by `plan`, before anything is written."""

    folder: Path
    pictures: frozenset[Path]
    """Where the source's pictures are, or will be."""
    jobs: tuple[Job, ...]
    renamed: tuple[tuple[str, str], ...]
    """(name in the source, name here): another picture has the name here."""


def plan(source: Folder, target: Path, way: Way, extensions: tuple[str, ...]) -> Intake:
    """Decide where each picture and caption of `source` goes; reads only what has the same name and size.

    A picture with the content of the one that is there is there already. Of another content, it gets a name of its
    own. A caption that is there stays as it is: it may have been edited.

    Args:
        extensions: of caption files, in lower case with the dot.
    """
    jobs: list[Job] = []
    pictures: set[Path] = set()
    captions: set[Path] = set()
    renamed: list[tuple[str, str]] = []
    for picture in source.pictures:
        place, missing = _place_for(picture, target, way, pictures)
        pictures.add(place)
        if missing:
            jobs.append(Job(picture, place, True))
        if place.name != picture.name:
            renamed.append((picture.name, place.name))
        for extension in extensions:
            caption = source.caption_of(picture, (extension,))
            if caption is None:
                continue
            name = caption.name if place.name == picture.name else place.stem + caption.suffix
            if target / name not in captions and not os.path.lexists(target / name):
                captions.add(target / name)
                jobs.append(Job(caption, target / name, False))
    return Intake(target, frozenset(pictures), tuple(jobs), tuple(renamed))


def carry_out(intakes: Sequence[Intake], way: Way, progress: Progress | None = None) -> list[Rejected]:
    """Take in what is missing; returns the files that could not be read.

    Cut at any moment, by an exception of `progress` too, it leaves whole files only, and goes on when called again.

    Raises:
        StorageError: no space, or the file system has no links.
        OSError: the target cannot be written.
    """
    jobs = [job for intake in intakes for job in intake.jobs]
    for intake in intakes:
        intake.folder.mkdir(parents=True, exist_ok=True)
        _sweep(intake.folder)
    if intakes:
        _require_space(jobs, way, intakes[0].folder)
    unreadable: list[Rejected] = []
    for done, rejected in enumerate(ordered_map(_worker(way), jobs, workers(4), ahead=16), 1):
        if rejected is not None:
            unreadable.append(rejected)
        if progress is not None:
            progress(done, len(jobs))
    for intake in intakes:
        sync_directory(intake.folder)
    return unreadable


def _place_for(picture: Path, target: Path, way: Way, taken: set[Path]) -> tuple[Path, bool]:
    """Where a picture goes, and whether it is missing there."""
    place, number = target / picture.name, 1
    while True:
        if place not in taken:
            if not os.path.lexists(place) or (place.is_symlink() and not place.exists()):
                return place, True
            if same_content(picture, place):
                return place, place.is_symlink() and way == "copy"
        number += 1
        place = target / f"{picture.stem}-{number}{picture.suffix}"


def same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same; compares the bytes only where size and time leave it open."""
    try:
        first, second = one.stat(), other.stat()
        if (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino):
            return True
        if first.st_size != second.st_size:
            return False
        return first.st_mtime_ns == second.st_mtime_ns or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _sweep(folder: Path) -> None:
    """Remove what a process that was killed has left half written."""
    with os.scandir(folder) as entries:
        left = [(entry.path, int(match[1])) for entry in entries if (match := _TEMPORARY.fullmatch(entry.name))]
    for path, pid in left:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            Path(path).unlink(missing_ok=True)
        except PermissionError:
            continue  # someone else's process lives


def _require_space(jobs: Sequence[Job], way: Way, target: Path) -> None:
    needed = 0
    for job in jobs:
        if way == "copy" or not job.is_picture:
            with suppress(OSError):  # it is told when it is its turn
                needed += job.source.stat().st_size
    free = shutil.disk_usage(target).free
    if needed > free:
        raise StorageError(
            f"Not enough space in {printable(target)}: the pictures need {size_text(needed)}, {size_text(free)} are "
            "free.",
            "Free some space there, choose another place, or take them in by link.",
        )


def _worker(way: Way) -> Callable[[Job], Rejected | None]:
    def work(job: Job) -> Rejected | None:
        if way == "link" and job.is_picture:
            _link(job)
            return None
        return _copy(job)

    return work


def _copy(job: Job) -> Rejected | None:
    """Copy one file with its time; only a whole one gets its name."""
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
    """A hard link, so that the picture stays when the source is deleted; else a symbolic one."""
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
                f"{printable(job.target.parent)} is on a file system without links.", "Take the pictures in by copy."
            ) from second
