"""Out of memory: what happened, where, the numbers, and what helps; one key takes it and goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from tui.texts import _

if TYPE_CHECKING:
    from engine.memory.remedies import Remedy


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
        """What happened; the list; what a key does."""
        with VerticalScroll(classes="dialog -problem", can_focus=False):
            yield Static("✗ " + _("Out of memory"), classes="dialog-title", markup=False)
            yield Static("\n".join(self.lines), id="happened", markup=False)
            if self.remedies:
                yield Static(_("What helps, the cheapest first:"), classes="title")
                options = [Option(_described(number, one)) for number, one in enumerate(self.remedies, 1)]
                yield OptionList(*options)
            else:
                yield Static(_("Nothing is left to change by itself: lower the resolution, or use a larger card."))
            with Vertical(id="foot"):
                yield Static("", id="answer", classes="warning", markup=False)
                yield Static(_("A number or Enter applies it and goes on; Escape leaves the run."), classes="hint")

    def on_key(self, event: events.Key) -> None:
        """A number takes that remedy."""
        if event.key.isdecimal() and 0 < int(event.key) <= len(self.remedies):
            event.stop()
            self._take(self.remedies[int(event.key) - 1])

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self._take(self.remedies[event.option_index])

    def _take(self, remedy: Remedy) -> None:
        if self.trouble:
            self.query_one("#answer", Static).update(self.trouble)
        else:
            self.dismiss(remedy)


def _described(number: int, remedy: Remedy) -> Content:
    """Two or three lines of an option."""
    action = "" if remedy.changes else " " + _("(you do it; then this goes on)")
    parts: list[str | tuple[str, str]] = [(f"{number} {remedy.title}{action}", "bold"), f"\n  {remedy.why}"]
    effects = [
        words.format(effect)
        for words, effect in ((_("Saves: {0}"), remedy.saves), (_("Costs: {0}"), remedy.costs))
        if effect
    ]
    if effects:
        parts.append(("\n  " + " · ".join(effects), "dim"))
    return Content.assemble(*parts)
