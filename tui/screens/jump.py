"""Choosing a step of the wizard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from tui.screens.steps import STEPS
from tui.texts import _


class JumpScreen(ModalScreen[str | None]):
    """Lists the steps; the result is the chosen one's name."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", _("Stay"))]

    def __init__(self, current: str, done: Sequence[str]) -> None:
        super().__init__()
        self.current, self.done = current, done

    def compose(self) -> ComposeResult:
        """The list of steps."""
        with Vertical(classes="dialog"):
            yield Static(_("Go to a step"), classes="dialog-title")
            yield OptionList(
                *(
                    Option(f"{'✓' if step.name in self.done else ' '} {number} {step.title}", id=step.name)
                    for number, step in enumerate(STEPS, 1)
                )
            )
            yield Static(_("A number or Enter goes there; Escape stays."), classes="hint")

    def on_mount(self) -> None:
        """Highlight the current step."""
        names = [step.name for step in STEPS]
        self.query_one(OptionList).highlighted = names.index(self.current)

    def on_key(self, event: events.Key) -> None:
        """A number goes to that step."""
        if event.key.isdecimal() and 0 < int(event.key) <= len(STEPS):
            event.stop()
            self.dismiss(STEPS[int(event.key) - 1].name)

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)
