"""Asking for one line of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from engine.errors import LoraSmithError
from tui.texts import _
from tui.widgets.text_input import TextInput

if TYPE_CHECKING:
    from tui.widgets.path_input import PathInput


class AskTextScreen(ModalScreen[str | None]):
    """The result is what was typed; None after Escape.

    Args:
        question: the heading, one line.
        text: what one should know before answering.
        check: raises a LoraSmithError for an invalid answer; the error is shown, and the question stays.
        value: the text that the line starts with.
        path: the field for a path, with completion; None for any other text.
        may_be_empty: whether an empty line is an answer.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", _("Cancel"))]

    def __init__(
        self,
        question: str,
        text: str,
        check: Callable[[str], object] = str,
        value: str = "",
        *,
        path: PathInput | None = None,
        may_be_empty: bool = False,
    ) -> None:
        super().__init__()
        self.path, self.may_be_empty = path, may_be_empty
        self.question, self.text, self.check, self.value = question, text, check, value

    def compose(self) -> ComposeResult:
        """Question, text, a line to type in."""
        with Vertical(classes="dialog"):
            yield Static(self.question, classes="dialog-title", markup=False)
            yield Static(self.text, markup=False)
            yield self.path or TextInput(self.value, select_on_focus=True, compact=True)
            yield Static(id="wrong", classes="error", markup=False)
            keys = _("Enter accepts, Escape cancels.")
            yield Static(f"{_('Tab completes.')} {keys}" if self.path else keys, classes="hint")

    @on(Input.Changed)
    def _edited(self) -> None:
        """Remove the error about what was typed before."""
        self.query_one("#wrong", Static).update("")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        answer = event.value.strip()
        if not (answer or self.may_be_empty):
            return
        try:
            self.check(answer)
        except LoraSmithError as error:
            self.query_one("#wrong", Static).update(f"✗ {error}")
        else:
            self.dismiss(answer)
