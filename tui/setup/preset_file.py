"""A file instead of a preset: one of this program's, or a configuration of another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.paths import expanded

if TYPE_CHECKING:
    from tui.setup.draft import Draft

_NOTES = "preset.notes"
"""In the draft's extras: a file, and what its keys mean here."""


def read_file(typed: str) -> Path:
    """The file that was typed, as a full path.

    Raises:
        UsageError: there is none, or it cannot be used.
    """
    from engine.config import load_config
    from engine.config.presets import find_preset

    path = find_preset(expanded(typed)).absolute()
    load_config(path)
    return path


def own_trigger(path: Path) -> dict[str, Any]:
    """Settings that keep the trigger word of a run's configuration under another name; none for a file of another
    program, whose output name is no word of the captions."""
    from engine.config import load_config
    from engine.dataset.trigger import kept_trigger

    return {} if is_foreign(path) else kept_trigger(load_config(path))


def is_foreign(path: Path) -> bool:
    """Whether a file that can be read as a preset is another program's."""
    from engine.config.foreign import conversion_of

    return conversion_of(path, path.read_text(encoding="utf-8-sig", errors="replace")) is not None


def conversion_notes(path: Path) -> list[str]:
    """The keys of another program's file that are not simply honoured, one sentence per key."""
    from engine.config.load import conversion_notes as notes

    return notes(path)


def begin_with_notes(draft: Draft, notes: list[str]) -> None:
    """Keep the notes on the keys of the draft's file."""
    draft.extras[_NOTES] = {"file": draft.preset, "notes": notes}


def kept_notes(draft: Draft) -> list[str]:
    """The notes on the keys of the file that the draft began with; none with another preset."""
    kept = draft.extras.get(_NOTES)
    return list(kept["notes"]) if isinstance(kept, dict) and kept["file"] == draft.preset else []
