"""The table of runs: the newest first, updated only where something changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from typing_extensions import override

from tui.text.rows import columns_for, ranks, row, searched
from tui.texts import _
from tui.widgets.row_table import Entry, RowTable

if TYPE_CHECKING:
    from engine.runs import KnownRun


class RunTable(RowTable):
    """One row per run; the row's key is the run's path."""

    ORDERS = (_("start, the newest first"), _("name"), _("state"), _("progress"), _("last seen"), _("place"))
    ORDER_OF = {"name": 1, "state": 2, "step": 3, "when": 4, "where": 5}  # noqa: RUF012 - not changed
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "select_cursor",
            _("Open"),
            tooltip=_("Watch a live run, or see the results of an ended one."),
        )
    ]

    def __init__(self) -> None:
        super().__init__()
        self.add_class("frame")
        self.border_title = _("Runs")
        self._runs: Mapping[str, KnownRun] = {}
        self._marked: frozenset[str] = frozenset()

    @property
    def chosen(self) -> KnownRun | None:
        """The run under the cursor."""
        return self._runs.get(self.chosen_key)

    @property
    def copied_text(self) -> str:
        """The path of the run under the cursor."""
        return self.chosen_key

    def show_runs(self, runs: Mapping[str, KnownRun], marked: Collection[str] = ()) -> None:
        """Show these, by their paths and in this order, those in `marked` with a mark; the cursor stays on its run."""
        self._runs, self._marked = runs, frozenset(marked)
        self._show()

    def on_resize(self) -> None:
        """Fit the columns to the width."""
        chosen = self.chosen_key
        columns = columns_for(self.app.size.width)
        self.set_columns([(column.name, column.title, column.width) for column in columns])
        self._show(rewrite=True)
        self.choose(chosen)

    def _show(self, *, rewrite: bool = False) -> None:
        if not self.names:  # its width is not known yet
            return
        width = self.app.size.width
        entries = {
            path: Entry(row(run, width, marked=path in self._marked), searched(run), ranks(run))
            for path, run in self._runs.items()
        }
        self.put(entries, rewrite=rewrite)

    @override
    def put(self, entries: Mapping[str, Entry], *, rewrite: bool = False) -> None:
        super().put(entries, rewrite=rewrite)
        shown, count = self.shown_of_all()
        self.border_subtitle = str(count) if shown == count else _("{0} of {1}").format(shown, count)
