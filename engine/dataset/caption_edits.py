"""Edits of many captions: planned, counted, then made; the journal can take them back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.atomic import write_text
from engine.dataset.caption_files import CaptionFile, is_whole, normalised, writing
from engine.dataset.caption_journal import THREADS, Journal, Noted, exact_text, reads_as
from engine.dataset.pool import Progress, ordered_map


@dataclass(frozen=True)
class Change:
    """What becomes of one caption file."""

    path: Path
    before: str
    after: str
    times: int = 1
    """Places that change in it."""


@dataclass(frozen=True)
class Edited:
    """What was done."""

    changed: int
    skipped: tuple[Path, ...] = ()
    """Captions that somebody else has changed since they were read; they were left alone."""


def plan_replace(
    files: Iterable[CaptionFile], find: str, by: str, *, whole_words: bool = False, match_case: bool = True
) -> list[Change]:
    """Replace a text in all captions.

    Args:
        whole_words: only where no letter or digit stands directly before or behind it.
        match_case: "Red" is not "red".
    """
    if not find:
        return []
    pattern = re.compile(re.escape(find), 0 if match_case else re.IGNORECASE)

    def changed(text: str) -> tuple[str, int]:
        times = 0

        def put(match: re.Match[str]) -> str:
            nonlocal times
            if whole_words and not is_whole(text, match.start(), match.end()):
                return match[0]
            times += 1
            return by

        return pattern.sub(put, text), times

    return _plan(files, changed)


def plan_frame(files: Iterable[CaptionFile], prefix: str = "", suffix: str = "") -> list[Change]:
    """Put texts before and behind every line of every caption, joined by one space; not where they are already.

    A suffix that begins with punctuation follows without a space. Pictures without a caption stay without.
    """
    prefix, suffix = prefix.strip(), suffix.strip()

    def framed(line: str) -> str:
        if prefix and not (line.startswith(prefix) and is_whole(line, 0, len(prefix))):
            line = f"{prefix} {line}"
        if suffix and not (line.endswith(suffix) and is_whole(line, len(line) - len(suffix), len(line))):
            line = f"{line}{'' if suffix[0] in ',.;:!?' else ' '}{suffix}"
        return line

    return _plan(files, lambda text: ("\n".join(framed(line) for line in text.split("\n")), 1))


def _plan(files: Iterable[CaptionFile], changed: Any) -> list[Change]:
    """One change for each caption file, also where several pictures share it."""
    changes: dict[Path, Change] = {}
    for file in files:
        if not file.text:
            continue
        text, times = changed(file.text)
        after = normalised(text)
        if after != file.text:
            changes[file.path] = Change(file.path, file.text, after, times)
    return list(changes.values())


def make(changes: Sequence[Change], journal: Journal, what: str, progress: Progress | None = None) -> Edited:
    """Make the changes; before the first of them, the journal gets all that is needed to take them back.

    Args:
        what: the edit in a few words, for the undoing.
        progress: told (done, total).

    Raises:
        StorageError: no space or no permission. What was changed until then can be undone.
    """
    todo: list[Change] = []
    skipped: list[Path] = []
    noted: list[Noted] = []
    for change in changes:
        try:
            original = exact_text(change.path)
        except OSError:
            skipped.append(change.path)
            continue
        # A caption that face crops share is not edited: the crop gets a file of its own.
        if original is None or reads_as(original, change.before):
            todo.append(change)
            noted.append(Noted(change.path, original, change.after))
        else:
            skipped.append(change.path)
    if todo:
        journal.begin(what).note(noted)

    def write(change: Change) -> None:
        with writing(change.path):
            write_text(change.path, f"{change.after}\n" if change.after else "")

    for done, _ in enumerate(ordered_map(write, todo, THREADS, ahead=4 * THREADS), 1):
        if progress is not None:
            progress(done, len(todo))
    return Edited(len(todo), tuple(skipped))
