"""An error on its own screen: what, where, how to fix it."""

from __future__ import annotations

import traceback
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from engine.errors import LoraSmithError
from engine.text import printable
from tui.texts import _


class ProblemScreen(ModalScreen[None]):
    """Shows an error; `c` copies it, any other key of the footer closes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,space", "dismiss", _("Close")),
        Binding("c,y", "copy", _("Copy")),
    ]

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.heading, self.text = describe(error)

    def compose(self) -> ComposeResult:
        """Title, sentence, hint."""
        with VerticalScroll(classes="dialog -problem"):
            yield Static(f"✗ {self.heading}", classes="dialog-title", markup=False)
            yield Static(self.text, markup=False)
            yield Static(_("Escape closes, c copies the text."), classes="hint")

    def action_copy(self) -> None:
        """Copy the text to the clipboard, if the terminal allows it."""
        self.app.copy_to_clipboard(f"{self.heading}\n{self.text}")
        self.notify(_("Copied (if your terminal allows it)."))


def describe(error: BaseException) -> tuple[str, str]:
    """Heading and text of an error; a traceback only for our own bugs."""
    if isinstance(error, LoraSmithError):
        text = "\n".join(printable(line) for line in error.message.split("\n"))
        return error.title, f"{text}\n\n{error.hint}" if error.hint else text
    if isinstance(error, OSError) and error.filename:
        return _("Storage"), f"{printable(str(error.filename))}: {error.strerror}."
    lines = traceback.format_exception(error)
    return _("A bug in LoRA Smith"), _("Please report it with these lines:") + "\n\n" + "".join(lines[-6:])
