"""A file in place of a preset: one of this program's, or one of Kohya's."""

from __future__ import annotations

from pathlib import Path

from engine.runs.layout import expanded


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


def kohya_notes(path: Path) -> list[str]:
    """What a file of Kohya's says that is not simply honoured, one sentence a key."""
    from engine.config.load import kohya_notes as notes

    return notes(path)
