"""Which file a page may replace: an earlier page of its kind."""

from __future__ import annotations

from pathlib import Path

from engine.errors import StorageError, UsageError
from engine.reading import open_file
from engine.text import printable

RESULTS, IMAGES = "results", "images"
"""The kinds of pages: of runs, and of a dataset."""
_EARLIER = {IMAGES: ("<!doctype html><html lang=en><meta charset=utf-8><title>Images: ",)}
"""How pages of former versions begin, by kind."""
_HINTS = {RESULTS: "Name another file, or replace it with --overwrite.", IMAGES: "Name another file."}


def begin(kind: str) -> str:
    """The first characters of every page of a kind, ASCII; they identify an earlier one."""
    return f'<!doctype html>\n<html lang="en" data-lorasmith="{kind}">'


def require_place(path: Path, kind: str, *, overwrite: bool = False) -> None:
    """Make the folder of a page, and refuse a path where another file would be overwritten.

    Args:
        overwrite: replace whatever regular file is there.

    Raises:
        UsageError: a folder, or a file that is not an earlier page.
        StorageError: it cannot be read, or its folder cannot be made.
    """
    earlier = tuple(text.encode() for text in (begin(kind), *_EARLIER.get(kind, ())))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise UsageError(
                f"--html: {printable(path)} is a folder.",
                "Name a file in it, for example report.html.",
                code="output-not-a-file",
            )
        if path.exists():
            with open_file(path) as file:
                if not overwrite and not file.read(max(map(len, earlier))).startswith(earlier):
                    raise UsageError(
                        f"--html: {printable(path)} is there already, and no earlier report.",
                        _HINTS[kind],
                        code="output-exists",
                    )
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(
            f"--html: {printable(path)} cannot be written: {reason}.", "Name another place.", code="write-failed"
        ) from error
