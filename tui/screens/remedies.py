"""Out of memory: what happened, where, the numbers, and the remedies; one key applies one and resumes the run."""

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
from engine.worker import Cancelled
from tui.texts import _

if TYPE_CHECKING:
    from engine.oom.remedy import Remedy

EstimateSavings = Callable[[Callable[[], bool]], Iterator[tuple[str, str]]]
"""Called with a function that is true once it is cancelled; yields a remedy's name and the saving by plan."""


class RemediesScreen(ModalScreen["Remedy | None"]):
    """The result is the remedy to apply; None leaves the run as it is.

    Args:
        lines: what happened, one sentence each.
        remedies: from the cheapest.
        trouble: why a remedy cannot be applied here; empty where it can.
        estimate: computes the saving of each remedy by the memory plan; None where there is no plan.
    """

    CSS_PATH = "remedies.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", _("Leave it"))]

    @dataclass
    class SavingsEstimated(Message):
        """The saving of a remedy by plan; for all remedies where the name is empty."""

        name: str
        saving: str

    def __init__(
        self,
        lines: Sequence[str],
        remedies: Sequence[Remedy],
        trouble: str = "",
        estimate: EstimateSavings | None = None,
    ) -> None:
        super().__init__()
        self.lines, self.remedies, self.trouble, self._estimate = lines, remedies, trouble, estimate
        self.savings: dict[str, str] = {}
        """Remedy's name to its saving by plan."""

    def compose(self) -> ComposeResult:
        """What happened, the list, the highlighted remedy, the keys."""
        with VerticalScroll(classes="dialog -problem", can_focus=False):
            yield Static("✗ " + _("Out of memory"), classes="title", markup=False)
            yield Static("\n".join(self.lines), id="what", markup=False)
            if not self.remedies:
                yield Static(_("No setting is left to change: lower the resolution, or use a larger card."))
                yield Static(_("Escape closes."), classes="hint")
                return
            yield Static(_("How to fix it, the cheapest first:"), classes="title")
            yield OptionList(
                *(f"{number} {remedy.title}" for number, remedy in enumerate(self.remedies, 1)), markup=False
            )
            yield Static(id="about", markup=False)
            if self.trouble:
                yield Static(f"! {self.trouble}", classes="warning", markup=False)
            yield Static(_("A number or Enter applies it and resumes; Escape leaves the run as it is."), classes="hint")

    def on_key(self, event: events.Key) -> None:
        """A number applies that remedy."""
        if event.key.isdecimal() and 0 < int(event.key) <= len(self.remedies):
            event.stop()
            self._take(self.remedies[int(event.key) - 1])

    def on_mount(self) -> None:
        """Estimate the savings, which takes a while."""
        if self._estimate is not None:
            self._plan(self._estimate)

    @work(thread=True, exit_on_error=False)
    def _plan(self, estimate: EstimateSavings) -> None:
        worker = get_current_worker()
        try:
            for name, saving in estimate(lambda: worker.is_cancelled):
                self.post_message(self.SavingsEstimated(name, saving))
        except Cancelled:
            return
        except LoraSmithError as error:
            self.post_message(self.SavingsEstimated("", _("unknown. {0}").format(error.message)))

    @on(SavingsEstimated)
    def _show_saving(self, event: SavingsEstimated) -> None:
        for remedy in self.remedies:
            if event.name in ("", remedy.name):
                self.savings.setdefault(remedy.name, event.saving)
        highlighted = self.query_one(OptionList).highlighted
        if highlighted is not None:
            self._explain(self.remedies[highlighted])

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        self._explain(self.remedies[event.option_index])

    def _explain(self, remedy: Remedy) -> None:
        saving = ""
        if self._estimate is not None and remedy.changes:
            saving = self.savings.get(remedy.name, _("being computed"))
        self.query_one("#about", Static).update(
            Content.assemble(
                remedy.why, ("\n" + _("Saves: "), "bold"), remedy.saves,
                *((("\n" + _("By plan: "), "bold"), saving) if saving else ()),
                ("\n" + _("Costs: "), "bold"), remedy.costs,
                ("\n" + _("Do this first; then the run resumes with the same settings."), "bold")
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
