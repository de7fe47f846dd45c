"""Titles of the parts of a model."""

from __future__ import annotations

from engine.text import printable
from tui.texts import _

_TITLES = {
    "unet": "U-Net",
    "transformer": _("transformer"),
    "text_encoder": _("text encoder"),
    "text_encoder_2": _("text encoder 2"),
}


def part_title(component: str) -> str:
    """The title of a part of a model; another component's name as it is."""
    return _TITLES.get(component, printable(component))
