"""The keys of a pager, in every list and text: each stands for one that the list has anyway."""

from __future__ import annotations

from textual import events
from textual.app import App
from textual.widget import Widget

STANDS_FOR = {"j": "down", "k": "up", "g": "home", "G": "end", "q": "escape"}
"""Down, up, the first, the last, out of here."""


def is_typing(widget: Widget | None) -> bool:
    """Whether a letter is a character there: in a field, and in a list that jumps to what is typed."""
    from textual.widgets import Input, TextArea  # here: with the first such key, not before the first paint
    from textual.widgets._select import SelectOverlay

    return isinstance(widget, Input | TextArea) or (isinstance(widget, SelectOverlay) and widget._type_to_search)


def plain(app: App[int], event: events.Key) -> events.Key:
    """The key that a letter stands for, unless it is typed or has a meaning of its own here; else the key itself."""
    key = STANDS_FOR.get(event.key)
    if key is None or is_typing(app.focused) or event.key in app.screen.active_bindings:
        return event
    return events.Key(key, None)
