"""Leaving while a training goes on."""

from __future__ import annotations

from typing import ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from tui.texts import _

Answer = Literal["detach", "stop", "cancel"]


class LeaveScreen(ModalScreen[Answer]):
    """Asks what becomes of the run: detach (the default), stop and save, or stay."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss('cancel')", _("Stay"))]

    def __init__(self, name: str) -> None:
        super().__init__()
        self.run_name = name

    def compose(self) -> ComposeResult:
        """Three answers."""
        with Vertical(classes="dialog"):
            yield Static(_("{0} is training").format(self.run_name), classes="dialog-title", markup=False)
            yield OptionList(
                Option(_("Detach: leave, the training goes on"), id="detach"),
                Option(_("Stop and save: finish the step, save everything, end the training"), id="stop"),
                Option(_("Cancel: stay here"), id="cancel"),
            )

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)  # type: ignore[arg-type]
