"""Colours: by the terminal's own where it has sixteen, and one theme of high contrast."""

from __future__ import annotations

import os
from collections.abc import Mapping

from textual.theme import Theme

HIGH_CONTRAST = Theme(
    name="high-contrast",
    primary="#ffff00",
    secondary="#00ffff",
    accent="#00ffff",
    warning="#ffff00",
    error="#ff8080",
    success="#80ff80",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#202020",
    text_alpha=1.0,
    luminosity_spread=0.1,
)


def first_theme(colour_system: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The theme to begin with: LORASMITH_THEME, else the terminal's own 16 colours where it has no more."""
    wished = environment.get("LORASMITH_THEME")
    if wished:
        return wished
    return "textual-dark" if colour_system in ("truecolor", "256") else "ansi-dark"
