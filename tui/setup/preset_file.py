"""A file instead of a preset: one of this program's, or one of Kohya's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.paths import expanded


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
    """Settings that keep the trigger word of a run's configuration under another name; none for a file of Kohya's,
    whose output name is no word of the captions."""
    from engine.config import load_config
    from engine.dataset.trigger import kept_trigger

    return {} if is_kohyas(path) else kept_trigger(load_config(path))


def is_kohyas(path: Path) -> bool:
    """Whether a file that can be read as a preset is one of Kohya's."""
    from engine.config.kohya.convert import conversion_of

    return conversion_of(path, path.read_text(encoding="utf-8-sig", errors="replace")) is not None


def kohya_notes(path: Path) -> list[str]:
    """The keys of a file of Kohya's that are not simply honoured, one sentence per key."""
    from engine.config.load import kohya_notes as notes

    return notes(path)
