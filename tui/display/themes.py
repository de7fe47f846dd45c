"""Themes: the terminal's own colours where it has sixteen, high contrast, and no colour at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from textual.theme import BUILTIN_THEMES, Theme

from engine.atomic import read_json, write_text
from engine.errors import StorageError
from engine.paths import user_state

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
"""The cursor is shown by the style of the text, since a background does not reach the terminal. Underlined as well as
reversed, because Textual draws no reversed row in a list of options."""

OWN = (HIGH_CONTRAST, NO_COLOUR)


def theme_names() -> list[str]:
    """All themes that LORASMITH_THEME can name."""
    return sorted([*BUILTIN_THEMES, *(theme.name for theme in OWN)])


def first_theme(colour_system: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The theme at the start: LORASMITH_THEME, else the last one that was chosen in a terminal with as many colours,
    else the terminal's own 16 colours where it has no more."""
    for name in (environment.get("LORASMITH_THEME"), _chosen().get(_colours(colour_system, environment))):
        if name in theme_names():
            return str(name)
    if colour_system in ("truecolor", "256"):
        return "textual-dark"
    return "no-colour" if "NO_COLOR" in environment else "ansi-dark"


def save_theme(name: str, colour_system: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Keep this theme for the next start in terminals with as many colours; a sentence where that fails."""
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        write_text(_path(), json.dumps({**_chosen(), _colours(colour_system, environment): name}, indent=1))
    except (OSError, StorageError) as error:
        return f"The theme is not kept for the next start: {error}"
    return None


def _chosen() -> dict[str, object]:
    stored = read_json(_path())
    return stored if isinstance(stored, dict) else {}


def _path() -> Path:
    return user_state() / "themes.json"


def _colours(colour_system: str | None, environment: Mapping[str, str]) -> str:
    """The class of terminals that a theme is kept for: one that is readable in one class may not be in another."""
    if "NO_COLOR" in environment:
        return "none"
    return "many" if colour_system in ("truecolor", "256") else "16"


def is_ansi(name: str) -> bool:
    """True for a theme of the terminal's own colours."""
    return any(theme.name == name and theme.ansi for theme in (*BUILTIN_THEMES.values(), *OWN))
