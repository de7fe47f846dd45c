"""Out of memory: what happened, where, the numbers, and what helps; one key takes it and goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.worker import get_current_worker

from engine.errors import LoraSmithError
from engine.memory.plan import PlanCancelled
from tui.texts import _

if TYPE_CHECKING:
    from engine.memory.remedy import Remedy

Weigh = Callable[[Callable[[], bool]], Iterator[tuple[str, str]]]
"""Asked with whether it is still wanted; gives the remedy's name and what the plan says of it."""


class RemediesScreen(ModalScreen["Remedy | None"]):
    """The result is the remedy to go on with; None leaves the run as it is.

    Args:
        lines: what happened, one sentence each.
        remedies: from the cheapest.
        trouble: why a remedy cannot be applied here; empty where it can.
        weigh: asks the memory plan about each remedy, one after the other; None where there is no plan.
    """

    CSS_PATH = "remedies.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", _("Leave it"))]

    @dataclass
    class Weighed(Message):
        """What the plan says of a remedy."""

        name: str
        told: str

    def __init__(
        self, lines: Sequence[str], remedies: Sequence[Remedy], trouble: str = "", weigh: Weigh | None = None
    ) -> None:
        super().__init__()
        self.lines, self.remedies, self.trouble, self._weigh = lines, remedies, trouble, weigh
        self.weighed: dict[str, str] = {}
        """By the remedy's name what the plan says of it."""

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

    def on_mount(self) -> None:
        """Plan the remedies, which takes a while."""
        if self._weigh is not None:
            self._plan(self._weigh)

    @work(thread=True, exit_on_error=False)
    def _plan(self, weigh: Weigh) -> None:
        worker = get_current_worker()
        try:
            for name, told in weigh(lambda: worker.is_cancelled):
                self.post_message(self.Weighed(name, told))
        except PlanCancelled:
            return
        except LoraSmithError as error:
            self.post_message(self.Weighed("", _("not known. {0}").format(error.message)))

    @on(Weighed)
    def _tell(self, event: Weighed) -> None:
        for remedy in self.remedies:
            if event.name in ("", remedy.name):
                self.weighed.setdefault(remedy.name, event.told)
        highlighted = self.query_one(OptionList).highlighted
        if highlighted is not None:
            self._explain(self.remedies[highlighted])

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        self._explain(self.remedies[event.option_index])

    def _explain(self, remedy: Remedy) -> None:
        planned = ""
        if self._weigh is not None and remedy.changes:
            planned = self.weighed.get(remedy.name, _("being computed"))
        self.query_one("#about", Static).update(
            Content.assemble(
                remedy.why, ("\n" + _("Saves: "), "bold"), remedy.saves,
                *((("\n" + _("By plan: "), "bold"), planned) if planned else ()),
                ("\n" + _("Costs: "), "bold"), remedy.costs,
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
