"""The cache of torch's compiler: a resume and the next run find there what an earlier one compiled.

What is in it is executed. So it is in the user's own cache folder whatever `memory.cache_dir` says, because a
configuration may come from a stranger, and only where nobody else can write. It may be deleted at any time. torch gives
a file its name when it is complete, and looks it up by a hash of everything that the code depends on.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from engine import paths
from engine.types import Log

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""Where torch has its cache; without it in a folder of a known name, in the folder of temporary files."""
LIMIT = 2 * 2**30
"""Most bytes of the cache before a run compiles; a run adds some MiB for each shape."""
IN_USE = 24 * 3600
"""Seconds: files that were used this recently may be those of a run, and stay."""


def cache_folder() -> Path:
    """Where the cache is."""
    return paths.user_cache() / "compiled"


def keep_compiled(log: Log) -> None:
    """Keep what this process compiles for the next run; to be called before the first compilation.

    Where the environment names a folder for it, that is used. Where the cache cannot be used safely, a folder of this
    process is, which is removed at its end.
    """
    if VARIABLE in os.environ and not _is_torchs_choice(Path(os.environ[VARIABLE])):
        return
    place = cache_folder()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        problem = _why_unsafe(place)
    except OSError as error:
        problem = f"{place} cannot be made ({error.strerror})"
    if problem:
        place = Path(tempfile.mkdtemp(prefix="lorasmith-compiled-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        log(f"Compiled blocks are not kept for the next run: {problem}.")
    else:
        shrink(place, LIMIT)
    os.environ[VARIABLE] = str(place)


def _is_torchs_choice(place: Path) -> bool:
    """Whether torch has set the variable itself, which it does as soon as its compiler is imported."""
    return place.parent == Path(tempfile.gettempdir()) and place.name.startswith("torchinductor_")


def _why_unsafe(place: Path) -> str:
    """Why another user may have written into a folder; empty: only its owner can, and that is this user."""
    facts = place.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        return f"{place} is a link"
    if hasattr(os, "getuid") and (facts.st_uid != os.getuid() or facts.st_mode & 0o022):
        return f"other users can write into {place}"
    return ""


def shrink(place: Path, limit: int) -> None:
    """Remove the files that were not used for the longest time, until the others take at most `limit` bytes. torch
    makes a missing one again."""
    entries = sorted(_entries(place))
    total = sum(size for _, size, _ in entries)
    for used, size, path in entries:
        if total <= limit or used > time.time() - IN_USE:
            return
        with suppress(OSError):
            path.unlink()
            total -= size


def _entries(place: Path) -> Iterator[tuple[float, int, Path]]:
    """(Time of the last use, bytes, path) of each file."""
    for folder, _, names in os.walk(place):
        for name in names:
            path = Path(folder) / name
            with suppress(OSError):
                facts = path.lstat()
                yield max(facts.st_atime, facts.st_mtime), facts.st_size, path
