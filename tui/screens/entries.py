"""Several lines of text for one setting, one entry per line."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea

from tui.texts import _


class EntriesScreen(ModalScreen[str | None]):
    """The result is the edited text; None after Escape.

    Args:
        title: of the setting.
        help: what an entry is.
        text: the entries, one per line.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "keep", _("Keep"), priority=True, tooltip=_("Keep these entries.")),
        Binding(
            "f6",
            "app.editor",
            _("Editor"),
            priority=True,
            tooltip=_("Edit them in your own editor (VISUAL or EDITOR)."),
        ),
        Binding("escape", "dismiss(None)", _("Cancel"), priority=True, tooltip=_("The entries stay as they were.")),
    ]

    def __init__(self, title: str, help: str, text: str) -> None:
        super().__init__()
        self.heading, self.help, self.text = title, help, text

    def compose(self) -> ComposeResult:
        """Title, text, keys."""
        with Vertical(classes="dialog"):
            yield Static(self.heading, classes="dialog-title", markup=False)
            yield Static(self.help, markup=False)
            yield TextArea(self.text, id="entries", compact=True)
            keys = _("One entry per line. Ctrl+N keeps them, F6 opens your own editor, Escape cancels.")
            yield Static(keys, classes="hint")

    def on_mount(self) -> None:
        """Put the cursor at the end."""
        area = self.query_one(TextArea)
        area.move_cursor(area.document.end)
        area.focus()

    def edited(self) -> tuple[str, str]:
        """The entries for an editor of the person's own, and the extension of their file."""
        return f"{self.query_one(TextArea).text}\n", ".txt"

    def take_edited(self, text: str) -> None:
        """Take the edited entries; Ctrl+Z undoes it."""
        area = self.query_one(TextArea)
        area.replace(text.strip("\n"), (0, 0), area.document.end)

    def action_keep(self) -> None:
        """Return the text."""
        self.dismiss(self.query_one(TextArea).text)
