"""A file instead of a preset: one of this program's, or a configuration of another one."""

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
