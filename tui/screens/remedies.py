"""Out of memory: what happened, where, the numbers, and what helps; one key takes it and goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static

from tui.texts import _

if TYPE_CHECKING:
    from engine.memory.remedy import Remedy


class RemediesScreen(ModalScreen["Remedy | None"]):
    """The result is the remedy to go on with; None leaves the run as it is.

    Args:
        lines: what happened, one sentence each.
        remedies: from the cheapest.
        trouble: why a remedy cannot be applied here; empty where it can.
    """

    CSS_PATH = "remedies.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", _("Leave it"))]

    def __init__(self, lines: Sequence[str], remedies: Sequence[Remedy], trouble: str = "") -> None:
        super().__init__()
        self.lines, self.remedies, self.trouble = lines, remedies, trouble

    def compose(self) -> ComposeResult:
        """What happened; the list; the highlighted remedy; what a key does."""
        with VerticalScroll(classes="dialog -problem", can_focus=False):
            yield Static("✗ " + _("Out of memory"), classes="title", markup=False)
            yield Static("\n".join(self.lines), id="what", markup=False)
            if not self.remedies:
                yield Static(_("No setting is left to change: lower the resolution, or use a larger card."))
                yield Static(_("Escape closes."), classes="hint")
                return
            yield Static(_("What helps, the cheapest first:"), classes="title")
            yield OptionList(*(f"{number} {one.title}" for number, one in enumerate(self.remedies, 1)), markup=False)
            yield Static(id="about", markup=False)
            if self.trouble:
                yield Static(f"! {self.trouble}", classes="warning", markup=False)
            yield Static(_("A number or Enter takes it and goes on; Escape leaves the run as it is."), classes="hint")

    def on_key(self, event: events.Key) -> None:
        """A number takes that remedy."""
        if event.key.isdecimal() and 0 < int(event.key) <= len(self.remedies):
            event.stop()
            self._take(self.remedies[int(event.key) - 1])

    @on(OptionList.OptionHighlighted)
    def _explain(self, event: OptionList.OptionHighlighted) -> None:
        remedy = self.remedies[event.option_index]
        self.query_one("#about", Static).update(
            Content.assemble(
                remedy.why, ("\n" + _("Saves: "), "bold"), remedy.saves, ("\n" + _("Costs: "), "bold"), remedy.costs,
                ("\n" + _("First do it; then this goes on with the same settings."), "bold")
                if not remedy.changes else "",
            )
        )  # fmt: skip

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self._take(self.remedies[event.option_index])

    def _take(self, remedy: Remedy) -> None:
        if self.trouble:
            self.app.bell()
        else:
            self.dismiss(remedy)
