"""The progress of a download, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.text import duration, size_text
from tui.texts import _

if TYPE_CHECKING:
    from engine.families.fetch import Progress


def progress_text(progress: Progress) -> str:
    """ "1.2 GiB of 2.6 GiB (46 %), 12.3 MiB/s, 1:50 left"."""
    share = 100 * progress.done // max(1, progress.total)
    words = _("{0} of {1} ({2} %)").format(size_text(progress.done), size_text(progress.total), share)
    left = progress.seconds_left
    if progress.rate and left is not None:
        words += ", " + _("{0}/s, {1} left").format(size_text(progress.rate), duration(left))
    return words
