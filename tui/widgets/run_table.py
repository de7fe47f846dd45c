"""The table of runs: the newest first, updated only where something changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable
from textual.widgets.data_table import ColumnKey

from tui.text.rows import COLUMNS, row, where_width
from tui.texts import _

if TYPE_CHECKING:
    from engine.runs import KnownRun


class RunTable(DataTable[Text]):
    """One row per run; the row's key is the run's path."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "select_cursor",
            _("Open"),
            tooltip=_("Watch a live run, or see the results of an ended one."),
        )
    ]

    def __init__(self) -> None:
        super().__init__(cursor_type="row", classes="frame")
        self.border_title = _("Runs")
        self._runs: Mapping[str, KnownRun] = {}
        self._marked: frozenset[str] = frozenset()
        self._written: dict[str, tuple[Text, ...]] = {}
        for column in COLUMNS:
            self.add_column(Text(column.title), key=column.name, width=column.width)

    @property
    def chosen(self) -> KnownRun | None:
        """The run under the cursor."""
        if not self.is_valid_row_index(self.cursor_row):
            return None
        return self._runs.get(self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value or "")

    def show_runs(self, runs: Mapping[str, KnownRun], marked: Collection[str] = ()) -> None:
        """Show these, by their paths and in this order, those in `marked` with a mark; the cursor stays on its run."""
        self._runs, self._marked = runs, frozenset(marked)
        self.border_subtitle = str(len(runs))
        self._write()

    def on_resize(self) -> None:
        """Give the rest of the width to the place."""
        self.columns[ColumnKey("where")].width = where_width(self.app.size.width)
        self._write(rewrite=True)

    def _write(self, *, rewrite: bool = False) -> None:
        rows = {path: row(run, self.app.size.width, marked=path in self._marked) for path, run in self._runs.items()}
        if rewrite or list(rows) != list(self._written):
            self._fill(rows)
        else:
            for path, cells in rows.items():
                for column, old, new in zip(COLUMNS, self._written[path], cells, strict=True):
                    if old != new:
                        self.update_cell(path, column.name, new)
        self._written = rows

    def _fill(self, rows: Mapping[str, tuple[Text, ...]]) -> None:
        chosen = self.chosen
        self.clear()
        for path, cells in rows.items():
            self.add_row(*cells, key=path)
        if chosen is not None and str(chosen.run_dir.path) in rows:
            self.move_cursor(row=list(rows).index(str(chosen.run_dir.path)))
