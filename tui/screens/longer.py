"""Training a finished run longer: to how many epochs, and what that means before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from engine.errors import LoraSmithError
from engine.runs import RunDir
from engine.text import printable
from tui.texts import _
from tui.widgets.text_input import TextInput

KEY = "training.max_train_epochs"


class LongerScreen(ModalScreen[int | None]):
    """The result is the number of epochs of the whole run; None after Escape.

    Args:
        run_dir: a finished run.
        epochs: that it has now; None where it is not known.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", _("Cancel"))]

    @dataclass
    class PlanReady(Message):
        """What a number of epochs means, or why it is refused."""

        epochs: int
        lines: list[str]
        possible: bool

    def __init__(self, run_dir: RunDir, epochs: int | None) -> None:
        super().__init__()
        self.run_dir, self.epochs = run_dir, epochs
        self._possible: int | None = None
        """The last number of epochs that was planned and is possible."""

    def compose(self) -> ComposeResult:
        """A question, an input, what the number means."""
        has = _("It has {0} now.").format(self.epochs) if self.epochs else ""
        with Vertical(classes="dialog -problem"):
            yield Static(
                _("Train {0} longer").format(printable(self.run_dir.name)), classes="dialog-title", markup=False
            )
            yield Static(_("Epochs of the whole run:") + f" {has}", markup=False)
            yield TextInput(str(self.epochs + 3) if self.epochs else "", select_on_focus=True, compact=True)
            yield Static(id="meaning", markup=False)
            yield Static(_("Enter continues the run, Escape leaves it as it is."), classes="hint")

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._possible = None
        if event.value.strip().isdecimal():
            self._plan(int(event.value.strip()[:9]))
        else:
            self.query_one("#meaning", Static).update(_("This must be a whole number."))

    @work(thread=True, exclusive=True, exit_on_error=False)
    def _plan(self, epochs: int) -> None:
        from engine.runs.resume import plan_resume

        try:
            lines = list(plan_resume(self.run_dir, {KEY: epochs}).notes)
        except LoraSmithError as error:
            self.post_message(self.PlanReady(epochs, [f"✗ {error.message}"], possible=False))
        else:
            self.post_message(self.PlanReady(epochs, lines, possible=True))

    @on(PlanReady)
    def _show_plan(self, event: PlanReady) -> None:
        if self.query_one(TextInput).value.strip() != str(event.epochs):
            return  # another number was typed meanwhile
        self._possible = event.epochs if event.possible else None
        self.query_one("#meaning", Static).update("\n".join(printable(line) for line in event.lines))

    @on(Input.Submitted)
    def _submitted(self) -> None:
        if self._possible is not None:
            self.dismiss(self._possible)
