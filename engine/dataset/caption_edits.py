"""Edits of many captions: planned, counted, then made; the last one can be undone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.atomic import read_json, write_text
from engine.dataset.caption_files import CaptionFile, is_whole, normalised, writing
from engine.dataset.folders import MAX_CAPTION_BYTES
from engine.dataset.pool import Progress, ordered_map

_THREADS = 16
"""They wait for the disk."""


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


def make(changes: Sequence[Change], undo_path: Path, progress: Progress | None = None) -> Edited:
    """Make the changes; before the first of them, `undo_path` gets all that is needed to take them back.

    Args:
        progress: told (done, total).

    Raises:
        StorageError: no space or no permission. What was changed until then can be undone.
    """
    todo: list[Change] = []
    skipped: list[Path] = []
    record = []
    for change in changes:
        original = _exact(change.path)
        # A caption that face crops share is not edited: the crop gets a file of its own.
        if _is(original, change.before) or not os.path.lexists(change.path):
            todo.append(change)
            record.append([os.fsencode(change.path).hex(), original, change.after])
        else:
            skipped.append(change.path)
    if todo:
        with writing(undo_path):
            undo_path.parent.mkdir(parents=True, exist_ok=True)
            write_text(undo_path, json.dumps(record))

    def write(change: Change) -> None:
        with writing(change.path):
            write_text(change.path, f"{change.after}\n" if change.after else "")

    for done, _ in enumerate(ordered_map(write, todo, _THREADS, ahead=4 * _THREADS), 1):
        if progress is not None:
            progress(done, len(todo))
    return Edited(len(todo), tuple(skipped))


def can_undo(undo_path: Path) -> int:
    """How many captions `undo` would look at."""
    record = read_json(undo_path)
    return len(record) if isinstance(record, list) else 0


def undo(undo_path: Path, progress: Progress | None = None) -> Edited:
    """Take the last edit back, to the byte; captions that were changed after it are left alone.

    Raises:
        StorageError: no space or no permission; calling it again goes on.
    """
    record = read_json(undo_path) or []
    restored, skipped = 0, []
    for done, (path, result) in enumerate(ordered_map(_restore, record, _THREADS, ahead=4 * _THREADS), 1):
        restored += result == "restored"
        if result == "changed since":
            skipped.append(path)
        if progress is not None:
            progress(done, len(record))
    with writing(undo_path):
        undo_path.unlink(missing_ok=True)
    return Edited(restored, tuple(skipped))


def _restore(entry: tuple[str, str | None, str]) -> tuple[Path, str]:
    """The file's path, and what became of it."""
    name, original, after = entry
    path = Path(os.fsdecode(bytes.fromhex(name)))
    now = _exact(path)
    if now == original:
        return path, "as before"
    if not _is(now, after):
        return path, "changed since"
    with writing(path):
        if original is None:
            path.unlink()
        else:
            write_text(path, original)
    return path, "restored"


def _exact(path: Path) -> str | None:
    """The file's text with every space, line end and mark; None where it cannot be had."""
    with suppress(OSError, UnicodeDecodeError), path.open("rb") as file:
        return file.read(MAX_CAPTION_BYTES + 1).decode("utf-8")
    return None


def _is(exact: str | None, text: str) -> bool:
    return exact is not None and normalised(exact.removeprefix("\ufeff")) == text
