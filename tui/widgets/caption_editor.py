"""The editor of one caption."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.document._history import EditHistory
from textual.events import Key
from textual.message import Message
from textual.widgets import TextArea

from engine.dataset.caption_files import normalised
from tui.texts import _

MOST_KEPT = 200
"""Captions whose undo history is kept."""


class CaptionEditor(TextArea):
    """Enter goes to the next image, Escape back to the list; the screen saves in both cases."""

    HELP: ClassVar[str] = _(
        "**Caption.** Enter saves and goes to the next image; Escape saves and goes back to the list. With "
        "`enable_wildcard` several lines are used, and Enter makes a new one. A run reads `name.txt` next to "
        "`name.png`; where it is missing or empty, it uses the trigger word. Ctrl+Z undoes, also after a save."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", _("To the list"), tooltip=_("Keep the caption and go back to the list.")),
    ]
    several_lines = False
    """Enter makes a new line."""
    _shown: Path | None = None
    """Whose caption is in the editor."""
    _left: tuple[tuple[Path, str, EditHistory], ...] = ()
    """Captions that were edited: the image, its last text, and its undo history; the newest last."""

    class Leave(Message):
        """Escape was pressed."""

    class Following(Message):
        """Enter was pressed: go to the next image."""

    def show(self, image: Path, text: str) -> None:
        """Show a caption. One that was edited before gets its undo history back: Ctrl+Z works after a save too."""
        if self._shown is not None:
            others = [entry for entry in self._left if entry[0] != self._shown]
            self._left = (*others, (self._shown, self.text, self.history))[-MOST_KEPT:]
        kept = next((entry for entry in self._left if entry[0] == image and normalised(entry[1]) == text), None)
        limits = self.history.max_checkpoints, self.history.checkpoint_timer, self.history.checkpoint_max_characters
        self.history = EditHistory(*limits)
        self.load_text(kept[1] if kept is not None else text)
        if kept is not None:
            self.history = kept[2]
        self._shown = image

    def begin(self) -> None:
        """Focus the editor, with the cursor at the end."""
        self.focus()
        self.move_cursor(self.document.end)

    async def _on_key(self, event: Key) -> None:
        if event.key == "enter" and not self.several_lines:
            event.stop()
            event.prevent_default()
            self.post_message(self.Following())
        else:
            await super()._on_key(event)

    def action_undo(self) -> None:
        """Undo, and select nothing that the next key would replace."""
        super().action_undo()
        self.move_cursor(self.cursor_location)

    def action_leave(self) -> None:
        """Back to the list."""
        self.post_message(self.Leave())
