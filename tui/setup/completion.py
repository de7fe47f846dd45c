"""Completing a typed path: the entries of a folder, and cleaning a pasted path. Draws nothing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

MOST_ENTRIES = 5000
"""Entries of a folder that are kept; of a larger folder only those that begin with what was typed."""


@dataclass(frozen=True)
class Listing:
    """What a folder holds. Folders end in a slash."""

    folder: str
    """As typed, up to and with the last slash; empty for the working directory."""
    name: str = ""
    """What was typed after the slash when it was read."""
    entries: tuple[str, ...] = ()
    complete: bool = True
    """Whether these are all entries of the folder, independent of what was typed."""

    def serves(self, folder: str, name: str) -> bool:
        """Whether it can be used for this text too."""
        return self.folder == folder and (self.complete or self.name == name)

    def matches(self, name: str) -> list[str]:
        """Entries that begin with `name`, in its own case or else in any; hidden ones only after a dot."""
        visible = [entry for entry in self.entries if name.startswith(".") or not entry.startswith(".")]
        exact = [entry for entry in visible if entry.startswith(name)]
        return exact or [entry for entry in visible if entry.casefold().startswith(name.casefold())]


def split(text: str) -> tuple[str, str]:
    """A typed path as (folder with its slash, name)."""
    place = text.rfind("/") + 1
    return text[:place], text[place:]


def read(
    folder: str,
    name: str,
    suffixes: Collection[str] = (),
    folders_only: bool = False,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Listing:
    """Read a folder; may take as long as a network drive takes. A folder that cannot be read has no entries.

    Args:
        folder: as in `Listing`.
        name: what the entries of a large folder must begin with.
        suffixes: files must end so (".safetensors"); empty for all files.
        folders_only: no files.
        is_wanted: called for each entry; reading stops once it returns False.
    """
    entries: list[str] = []
    complete = True
    try:
        with os.scandir(folder or ".") as scanned:
            for entry in scanned:
                if not is_wanted():
                    break
                if len(entries) >= MOST_ENTRIES and complete:
                    complete = False
                    entries = [other for other in entries if other.casefold().startswith(name.casefold())]
                if not complete and not entry.name.casefold().startswith(name.casefold()):
                    continue
                if len(entries) >= MOST_ENTRIES:
                    break
                if _is_folder(entry):
                    entries.append(f"{entry.name}/")
                elif not folders_only and (not suffixes or entry.name.lower().endswith(tuple(suffixes))):
                    entries.append(entry.name)
    except (OSError, ValueError):  # gone, forbidden, or a name that no folder can have: nothing to offer
        pass
    return Listing(
        folder, name, tuple(sorted(entries, key=lambda entry: (entry.rstrip("/").casefold(), entry))), complete
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def plain_path(text: str) -> str:
    """A path as it was pasted, without quotes, shell escapes, file:// and ~."""
    text = text.strip()
    if text.lower().startswith("file://"):
        text = os.fsdecode(unquote_to_bytes(urlsplit(text).path))
    elif text[:1] in ("'", '"') or "\\ " in text:
        try:
            words = shlex.split(text)
        except ValueError:  # a quote that is not closed belongs to the name
            words = []
        text = words[0] if len(words) == 1 else text
    return os.path.expanduser(text)  # noqa: PTH111 - Path's own raises where there is no such home
