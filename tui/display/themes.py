"""Themes: dark, light, the terminal's own colours where it has sixteen, high contrast, and no colour at all.

In all of them the primary colour is that of the focus alone, and the accent that of progress and of the loss.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.terminal_theme import TerminalTheme
from textual.color import Color
from textual.theme import BUILTIN_THEMES, Theme

from engine.atomic import read_json, write_text
from engine.errors import StorageError
from engine.paths import user_state


def _theme(name: str, *, frame: str, hover: str, **colours: Any) -> Theme:
    """A theme with frames and scroll bars of one colour.

    Args:
        hover: of a scroll bar under the mouse.
        colours: as `Theme` takes them.
    """
    behind = ("scrollbar-background", "scrollbar-background-hover", "scrollbar-background-active")
    variables = {
        "frame": frame,
        "frame-focus": colours["primary"],
        "footer-key-foreground": colours["accent"],
        "scrollbar": frame,
        "scrollbar-hover": hover,
        **dict.fromkeys(behind, colours["surface"]),
    }
    return Theme(name=name, luminosity_spread=0.12, variables=variables, **colours)


DARK = _theme(
    "smith-dark",
    frame="#4d483f",
    hover="#6b6458",
    primary="#5ea8ff",
    secondary="#7aa2b8",
    accent="#ff9440",
    warning="#f2c55c",
    error="#ff6f6b",
    success="#86c98b",
    foreground="#e9e4dc",
    background="#15140f",
    surface="#1b1a16",
    panel="#26241f",
    text_alpha=0.95,
)
LIGHT = _theme(
    "smith-light",
    frame="#b8ae9d",
    hover="#968b78",
    primary="#0b62c4",
    secondary="#4b6b7d",
    accent="#b34d00",
    warning="#8a5d00",
    error="#b3261e",
    success="#256b34",
    foreground="#24211c",
    background="#fbf8f2",
    surface="#f5f1e8",
    panel="#eae4d8",
    dark=False,
)
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
    variables={"frame": "#b0b0b0", "frame-focus": "#ffff00"},
)

_FRAMES_16 = {"frame": "ansi_bright_black", "frame-focus": "ansi_bright_blue", "border": "ansi_bright_blue"}
_ANSI = BUILTIN_THEMES["ansi-dark"]
SIXTEEN = replace(
    _ANSI,
    name="smith-16",
    primary="ansi_bright_blue",
    accent="ansi_yellow",
    warning="ansi_bright_yellow",
    error="ansi_bright_red",
    variables={**_ANSI.variables, **_FRAMES_16, "footer-key-foreground": "ansi_yellow"},
)
_CURSORS = {
    "block-cursor-text-style": "bold underline reverse",
    "block-cursor-blurred-text-style": "underline",
    "input-cursor-text-style": "reverse",
}
NO_COLOUR = replace(_ANSI, name="no-colour", variables={**_ANSI.variables, **_FRAMES_16, **_CURSORS})
"""The cursor is shown by the style of the text, since a background does not reach the terminal. Underlined as well as
reversed, because Textual draws no reversed row in a list of options."""


def _palette(theme: Theme, magenta: str, cyan: str) -> TerminalTheme:
    own = (theme.background, theme.error, theme.success, theme.warning, theme.primary, magenta, cyan, theme.foreground)
    colours = [Color.parse(colour or "").rgb for colour in own]
    return TerminalTheme(colours[0], colours[-1], colours)


PALETTES = (_palette(DARK, "#c99bdc", "#7abec8"), _palette(LIGHT, "#783c8c", "#14646e"))
"""What the names of the terminal's colours are in dark and in light themes: the background first, the text last."""

OWN = (DARK, LIGHT, HIGH_CONTRAST, SIXTEEN, NO_COLOUR)


def frame_colours(variables: Mapping[str, str], *, ansi: bool) -> dict[str, str]:
    """The style sheet's colours of frames for a theme that is not ours, by its other ones.

    Args:
        variables: all of the theme's.
        ansi: whether they are the terminal's own colours.
    """
    if ansi:
        return _FRAMES_16
    return {"frame": variables["panel-lighten-2"], "frame-focus": variables["primary"]}


def theme_names() -> list[str]:
    """All themes that LORASMITH_THEME can name."""
    return sorted([*BUILTIN_THEMES, *(theme.name for theme in OWN)])


def first_theme(colour_system: str | None, environment: Mapping[str, str] = os.environ, own: str | None = None) -> str:
    """The theme at the start: with NO_COLOR the one for it; else LORASMITH_THEME, else the person's own default where
    the terminal has its colours, else the last one that was chosen in a terminal with as many colours, else the
    terminal's own 16 colours where it has no more."""
    if "NO_COLOR" in environment:
        return NO_COLOUR.name
    kind = _colours(colour_system)
    usual = own if own is not None and (kind == "many" or is_ansi(own)) else None
    for name in (environment.get("LORASMITH_THEME"), usual, _chosen().get(kind)):
        if name in theme_names():
            return str(name)
    return DARK.name if kind == "many" else SIXTEEN.name


def save_theme(name: str, colour_system: str | None) -> str | None:
    """Keep this theme for the next start in terminals with as many colours; a sentence where that fails."""
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        write_text(_path(), json.dumps({**_chosen(), _colours(colour_system): name}, indent=1))
    except (OSError, StorageError) as error:
        return f"The theme is not kept for the next start: {error}"
    return None


def _chosen() -> dict[str, object]:
    stored = read_json(_path())
    return stored if isinstance(stored, dict) else {}


def _path() -> Path:
    return user_state() / "themes.json"


def _colours(colour_system: str | None) -> str:
    """The class of terminals that a theme is kept for: one that is readable in one class may not be in another."""
    return "many" if colour_system in ("truecolor", "256") else "16"


def is_ansi(name: str) -> bool:
    """True for a theme of the terminal's own colours."""
    return any(theme.name == name and theme.ansi for theme in (*BUILTIN_THEMES.values(), *OWN))
