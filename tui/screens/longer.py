"""Training a finished run longer: to how many steps or epochs, and what that means before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static
from textual.worker import Worker, WorkerState

from engine.errors import LoraSmithError
from engine.runs import RunDir
from engine.text import printable
from tui.text.longer import RunLength
from tui.texts import _
from tui.widgets.text_input import TextInput


class LongerScreen(ModalScreen[Mapping[str, object] | None]):
    """The result is the setting that makes the run longer, with its value; None after Escape.

    Args:
        run_dir: a finished run.
        title: its name.
        length: that it has now, in the unit that it was set in.
    """

    HELP = _("""
## Train longer

Type how many epochs or steps the whole run shall have, those that it has made included. The run continues from its last
saved state, in the same folder; its files and samples stay.

Below the number stand what it means and what the longer run changes. Reasons to train longer: Results rates the
files as **undertrained**, or the samples still improve at the end.
""")
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", _("Cancel"))]

    @dataclass
    class PlanReady(Message):
        """What a length means, or why it is refused."""

        number: int
        lines: list[str]
        possible: bool

    def __init__(self, run_dir: RunDir, title: str, length: RunLength) -> None:
        super().__init__()
        self.run_dir, self.run_title, self.length = run_dir, title, length
        self._possible: int | None = None
        """The last number that was planned and is possible."""
        self._is_planning = False
        self._entered: int | None = None
        """A number that was submitted before its plan was ready."""

    def compose(self) -> ComposeResult:
        """A question, an input, what the number means."""
        with Vertical(classes="dialog -problem"):
            yield Static(_("Train {0} longer").format(printable(self.run_title)), classes="dialog-title", markup=False)
            yield Static(self.length.question, markup=False)
            yield TextInput(self.length.proposed, select_on_focus=True, compact=True)
            yield Static(id="meaning", markup=False)
            yield Static(_("Enter continues the run, Escape leaves it as it is."), classes="hint")

    @property
    def _number(self) -> int | None:
        """What is typed; None where that is no whole number."""
        typed = self.query_one(TextInput).value.strip()
        return int(typed[:9]) if typed.isdecimal() else None

    def _show(self, text: str) -> None:
        self.query_one("#meaning", Static).update(text)

    @on(Input.Changed)
    def _typed(self) -> None:
        self._possible = self._entered = None
        number = self._number
        self._is_planning = number is not None
        if number is None:
            self._show(_("This must be a whole number."))
        else:
            self._plan(number)

    @work(thread=True, exclusive=True, exit_on_error=False)
    def _plan(self, number: int) -> None:
        from engine.runs.resume import plan_resume

        try:
            notes = plan_resume(self.run_dir, {self.length.key: number}).notes
        except LoraSmithError as error:
            self.post_message(self.PlanReady(number, [f"✗ {error.message}"], possible=False))
        else:
            self.post_message(self.PlanReady(number, [*self.length.meaning(number), *notes], possible=True))

    @on(Worker.StateChanged)
    def _not_planned(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR:
            self._is_planning, self._entered = False, None
            self._show(f"✗ {printable(str(event.worker.error))}")

    @on(PlanReady)
    def _show_plan(self, event: PlanReady) -> None:
        if self._number != event.number:
            return  # another number was typed meanwhile
        self._is_planning = False
        self._possible = event.number if event.possible else None
        self._show("\n".join(printable(line) for line in event.lines))
        if self._entered == event.number:
            self._entered = None
            self._submitted()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        """Take a number that is possible; one whose plan is not ready yet as soon as it is."""
        if self._possible is not None:
            self.dismiss({self.length.key: self._possible})
        elif self._is_planning:
            self._entered = self._number
