"""Parts of a screen with their title in the frame."""

from __future__ import annotations

from typing import TypeVar

from textual.widget import Widget

W = TypeVar("W", bound=Widget)


def framed(widget: W, title: str) -> W:
    """Give a widget a frame with a title; the style sheet has its looks."""
    widget.add_class("frame")
    widget.border_title = title
    return widget
