"""Edits of many captions: computed, counted, then written; the journal can undo them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.atomic import write_text
from engine.dataset.caption_files import CaptionFile, is_separate_word, normalised, writing
from engine.dataset.caption_journal import THREADS, CaptionChange, Journal, exact_text, reads_as
from engine.dataset.pool import ordered_map
from engine.types import Progress


@dataclass(frozen=True)
class Change:
    """The change of one caption file."""

    path: Path
    before: str
    after: str
    times: int = 1
    """Number of places that change."""


@dataclass(frozen=True)
class EditResult:
    """The result of an edit."""

    changed: int
    skipped: tuple[Path, ...] = ()
    """Captions changed by another program since they were read; they are kept."""


def plan_replace(
    files: Iterable[CaptionFile], find: str, replacement: str, *, whole_words: bool = False, match_case: bool = True
) -> list[Change]:
    """Replace a text in all captions.

    Args:
        whole_words: only where no letter or digit is directly before or after it.
        match_case: "Red" is not "red".
    """
    if not find:
        return []
    pattern = re.compile(re.escape(find), 0 if match_case else re.IGNORECASE)

    def changed(text: str) -> tuple[str, int]:
        times = 0

        def substitute(match: re.Match[str]) -> str:
            nonlocal times
            if whole_words and not is_separate_word(text, match.start(), match.end()):
                return match[0]
            times += 1
            return replacement

        return pattern.sub(substitute, text), times

    return _plan(files, changed)


def plan_frame(files: Iterable[CaptionFile], prefix: str = "", suffix: str = "") -> list[Change]:
    """Add a prefix and a suffix to every line of every caption, with a space between, unless they are already there.

    A suffix that begins with punctuation follows without a space. Images without a caption stay without.
    """
    prefix, suffix = prefix.strip(), suffix.strip()

    def framed(line: str) -> str:
        if prefix and not (line.startswith(prefix) and is_separate_word(line, 0, len(prefix))):
            line = f"{prefix} {line}"
        if suffix and not (line.endswith(suffix) and is_separate_word(line, len(line) - len(suffix), len(line))):
            line = f"{line}{'' if suffix[0] in ',.;:!?' else ' '}{suffix}"
        return line

    return _plan(files, lambda text: ("\n".join(framed(line) for line in text.split("\n")), 1))


def _plan(files: Iterable[CaptionFile], changed: Any) -> list[Change]:
    """One change per caption file, even if several images share it."""
    changes: dict[Path, Change] = {}
    for file in files:
        if not file.text:
            continue
        text, times = changed(file.text)
        after = normalised(text)
        if after != file.text:
            changes[file.path] = Change(file.path, file.text, after, times)
    return list(changes.values())


def apply(changes: Sequence[Change], journal: Journal, what: str, progress: Progress | None = None) -> EditResult:
    """Write the changes; everything needed to undo them is recorded in the journal first.

    Args:
        what: the edit in a few words, shown for undo.
        progress: called with (done, total).

    Raises:
        StorageError: no space or no permission. Changes up to then can be undone.
    """
    todo: list[Change] = []
    skipped: list[Path] = []
    recorded: list[CaptionChange] = []
    for change in changes:
        try:
            original = exact_text(change.path)
        except OSError:
            skipped.append(change.path)
            continue
        # A caption shared by face crops is not edited: the crop gets its own file.
        if original is None or reads_as(original, change.before):
            todo.append(change)
            recorded.append(CaptionChange(change.path, original, change.after))
        else:
            skipped.append(change.path)
    if todo:
        journal.begin(what).record(recorded)

    def write(change: Change) -> None:
        with writing(change.path):
            write_text(change.path, f"{change.after}\n" if change.after else "")

    for done, _ in enumerate(ordered_map(write, todo, THREADS, ahead=4 * THREADS), 1):
        if progress is not None:
            progress(done, len(todo))
    return EditResult(len(todo), tuple(skipped))
