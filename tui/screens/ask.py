"""A question with a few answers, the safe one first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from tui.texts import _


class AskScreen(ModalScreen[str | None]):
    """The result is the chosen answer's name; None after Escape.

    Args:
        question: the heading, one line.
        answers: name to sentence; the cursor is on the first one.
        text: what one should know before answering.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", _("Stay"))]

    def __init__(self, question: str, answers: Mapping[str, str], text: str = "") -> None:
        super().__init__()
        self.question, self.answers, self.text = question, answers, text

    def compose(self) -> ComposeResult:
        """Question, text, answers."""
        with Vertical(classes="dialog"):
            yield Static(self.question, classes="dialog-title", markup=False)
            if self.text:
                yield Static(self.text, classes="dialog-text", markup=False)
            yield OptionList(*(Option(sentence, id=name) for name, sentence in self.answers.items()), markup=False)
            yield Static(_("Enter chooses, Escape changes nothing."), classes="hint")

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)
