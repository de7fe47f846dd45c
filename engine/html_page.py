"""Pages for a browser: one file each, without other files and without network access."""

from __future__ import annotations

from pathlib import Path

from engine.errors import StorageError, UsageError
from engine.reading import open_file
from engine.text import printable


def require_page_place(path: Path, begin: str, *, overwrite: bool = False, hint: str = "Name another file.") -> None:
    """Make the folder of a page, and refuse a path where another file would be overwritten.

    Args:
        begin: the first characters of every page of this kind, ASCII; they identify an earlier one.
        overwrite: replace whatever regular file is there.
        hint: what to do about another file there.

    Raises:
        UsageError: a folder, or a file that is not an earlier page.
        StorageError: it cannot be read, or its folder cannot be made.
    """
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
                if file.read(len(begin)) != begin.encode() and not overwrite:
                    raise UsageError(
                        f"--html: {printable(path)} is there already, and no earlier report.",
                        hint,
                        code="output-exists",
                    )
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(
            f"--html: {printable(path)} cannot be written: {reason}.", "Name another place.", code="write-failed"
        ) from error
