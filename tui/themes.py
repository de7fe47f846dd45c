"""Colours: by the terminal's own where it has sixteen, and themes of high contrast and of no colour at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from textual.theme import BUILTIN_THEMES, Theme

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

_ANSI = BUILTIN_THEMES["ansi-dark"]
_CURSORS = {
    "block-cursor-text-style": "bold underline reverse",
    "block-cursor-blurred-text-style": "underline",
    "input-cursor-text-style": "reverse",
}
NO_COLOUR = replace(_ANSI, name="no-colour", variables={**_ANSI.variables, **_CURSORS})
"""Where one is shows by the style of the text, since a background does not reach the terminal. Underlined as well as
reversed, because Textual draws no reversed row in a list of options."""

OWN = (HIGH_CONTRAST, NO_COLOUR)


def theme_names() -> list[str]:
    """All themes that LORASMITH_THEME can name."""
    return sorted([*BUILTIN_THEMES, *(theme.name for theme in OWN)])


def first_theme(colour_system: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The theme to begin with: LORASMITH_THEME, else the terminal's own 16 colours where it has no more."""
    wished = environment.get("LORASMITH_THEME")
    if wished in theme_names():
        return str(wished)
    if colour_system in ("truecolor", "256"):
        return "textual-dark"
    return "no-colour" if "NO_COLOR" in environment else "ansi-dark"


def is_ansi(name: str) -> bool:
    """True for a theme of the terminal's own colours."""
    return any(theme.name == name and theme.ansi for theme in (*BUILTIN_THEMES.values(), *OWN))
