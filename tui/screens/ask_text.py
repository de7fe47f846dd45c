"""Asking for one line of text."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from tui.texts import _


class AskTextScreen(ModalScreen[str | None]):
    """The result is what was typed; None after Escape.

    Args:
        question: the heading, one line.
        text: what one should know before answering.
        value: to begin with.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", _("Cancel"))]

    def __init__(self, question: str, text: str = "", value: str = "") -> None:
        super().__init__()
        self.question, self.text, self.value = question, text, value

    def compose(self) -> ComposeResult:
        """Question, text, a line to type in."""
        with Vertical(classes="dialog"):
            yield Static(self.question, classes="dialog-title", markup=False)
            yield Static(self.text, markup=False)
            yield Input(self.value, compact=True)
            yield Static(_("Enter takes it, Escape cancels."), classes="hint")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self.dismiss(event.value.strip())
