"""The table of runs: the newest first, updated only where something changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.widgets.data_table import ColumnKey

from tui.text.rows import COLUMNS, ranks, row, searched, where_width
from tui.texts import _
from tui.widgets.row_table import Entry, RowTable

if TYPE_CHECKING:
    from engine.runs import KnownRun


class RunTable(RowTable):
    """One row per run; the row's key is the run's path."""

    ORDERS = (_("start, the newest first"), _("name"), _("state"), _("progress"), _("last seen"), _("place"))
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "select_cursor",
            _("Open"),
            tooltip=_("Watch a live run, or see the results of an ended one."),
        )
    ]

    def __init__(self) -> None:
        super().__init__([(column.name, column.title, column.width) for column in COLUMNS])
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
        self.border_subtitle = str(len(runs))
        self._show()

    def on_resize(self) -> None:
        """Give the rest of the width to the place."""
        self.columns[ColumnKey("where")].width = where_width(self.app.size.width)
        self._show(rewrite=True)

    def _show(self, *, rewrite: bool = False) -> None:
        width = self.app.size.width
        entries = {
            path: Entry(row(run, width, marked=path in self._marked), searched(run), ranks(run))
            for path, run in self._runs.items()
        }
        self.put(entries, rewrite=rewrite)
