"""Verdicts as words. Loads nothing of the screen."""

from __future__ import annotations

from tui.texts import _


def verdict_word(kind: str) -> str:
    """A verdict as a word; a file without one was not measured."""
    return _("not measured") if kind == "undecidable" else _(kind)
