"""The editor of one caption."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Key
from textual.message import Message
from textual.widgets import TextArea

from tui.texts import _


class CaptionEditor(TextArea):
    """Enter goes on, Escape goes back; both keep what was typed, which is up to the screen."""

    HELP: ClassVar[str] = _(
        "**Caption.** Enter saves and goes to the next picture; Escape saves and goes back to the list. With "
        "`enable_wildcard` several lines are used, and Enter makes a new one. A run reads `name.txt` beside "
        "`name.png`; where it is missing or empty, it takes the trigger word."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", _("To the list"), tooltip=_("Keep the caption and go back to the list.")),
    ]
    several_lines = False
    """Enter makes a new line."""

    class Leave(Message):
        """Escape was pressed."""

    class Following(Message):
        """Enter was pressed: on to the next picture."""

    def begin(self) -> None:
        """Type at the end."""
        self.focus()
        self.move_cursor(self.document.end)

    async def _on_key(self, event: Key) -> None:
        if event.key == "enter" and not self.several_lines:
            event.stop()
            event.prevent_default()
            self.post_message(self.Following())
        else:
            await super()._on_key(event)

    def action_leave(self) -> None:
        """Back to the list."""
        self.post_message(self.Leave())
