"""A table with a cursor for rows: filtered by words, sorted by a column, and written only where a cell changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable
from textual.widgets.data_table import RowKey

from tui.text.cells import clipped
from tui.texts import _
from tui.widgets.filterable import Filterable


@dataclass(frozen=True)
class Entry:
    """A row, by its key."""

    cells: tuple[Text, ...]
    text: str = ""
    """What a filter looks through."""
    ranks: tuple[Any, ...] = field(default=(), compare=False)
    """What it is sorted by, one for each of the table's orders after the first, which is that of the entries."""


class RowTable(DataTable[Text], Filterable):
    """Shows entries by their keys; the cursor stays on its entry whatever is shown.

    Args:
        columns: (name, title, width); a width of None is that of the widest cell.
    """

    ORDER_OF: ClassVar[Mapping[str, int]] = {}
    """Column to the place of its order: a click on the heading sorts by it, a second one from its end, a third one as
    before. An arrow in the heading shows it."""
    row_height: int | None = 1
    """Lines of a row; None for as many as its cells take."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_top", _("First row"), show=False),
        Binding("end", "scroll_bottom", _("Last row"), show=False),
    ]

    def __init__(self, columns: Sequence[tuple[str, str, int | None]] = (), *, id: str | None = None) -> None:
        super().__init__(cursor_type="row", id=id)
        self._entries: Mapping[str, Entry] = {}
        self._written: dict[str, tuple[Text, ...]] = {}
        self.names: list[str] = []
        """Of the columns."""
        self._columns: tuple[tuple[str, str, int | None], ...] = ()
        self._arrow_at = (0, False)
        """The order that the headings show, and whether it is reversed."""
        self.set_columns(columns)

    def set_columns(self, columns: Sequence[tuple[str, str, int | None]]) -> None:
        """Start over with other columns."""
        self.clear(columns=True)
        self._written, self._columns = {}, tuple(columns)
        self._arrow_at = self.order, self.is_reversed
        self.names = [name for name, _title, _width in columns]
        for name, title, width in columns:
            self.add_column(Text(self._heading(name, title, width)), key=name, width=width)

    def _heading(self, name: str, title: str, width: int | None) -> str:
        """The title, with an arrow where the table is sorted by the column; the usual order has none."""
        if self.ORDER_OF.get(name) != self.order or not (self.order or self.is_reversed):
            return title
        arrow = "▼" if self.is_reversed else "▲"
        return (title if width is None else clipped(title, width - 1)) + arrow

    @property
    def chosen_key(self) -> str:
        """The key of the row under the cursor; empty where there is none."""
        if not self.is_valid_row_index(self.cursor_row):
            return ""
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value or ""

    def choose(self, key: str) -> bool:
        """Put the cursor on a row; False where it is not shown."""
        if key not in self._written:
            return False
        self.move_cursor(row=self.get_row_index(RowKey(key)))
        return True

    def put(self, entries: Mapping[str, Entry], *, rewrite: bool = False) -> None:
        """Show these, in this order where the table has no other one.

        Args:
            rewrite: also the rows that did not change, for another width.
        """
        self._entries = entries
        rows = {key: entry.cells for key, entry in self._arranged()}
        if rewrite or list(rows) != list(self._written):
            self._fill(rows)
        else:
            for key, cells in rows.items():
                for name, old, new in zip(self.names, self._written[key], cells, strict=True):
                    if old != new:
                        self.update_cell(key, name, new)
        self._written = rows

    def _arranged(self) -> list[tuple[str, Entry]]:
        shown = [(key, entry) for key, entry in self._entries.items() if self.shows(entry.text)]
        if self.order:
            shown.sort(key=lambda pair: pair[1].ranks[self.order - 1])
        return shown[::-1] if self.is_reversed else shown

    def _fill(self, rows: Mapping[str, tuple[Text, ...]]) -> None:
        chosen = self.chosen_key
        self.clear()
        for key, cells in rows.items():
            self.add_row(*cells, key=key, height=self.row_height)
        if chosen in rows:
            self.move_cursor(row=list(rows).index(chosen))

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A heading was clicked."""
        order = self.ORDER_OF.get(event.column_key.value or "", self.order)
        if not self.ORDERS:
            return
        if order != self.order:
            self.sort_by(order)
        elif self.is_reversed:
            self.sort_by(0)
        else:
            self.sort_by(order, is_reversed=True)

    def rearrange(self) -> None:
        """Show the entries again."""
        chosen, is_in_place = self.chosen_key, self._arrow_at == (self.order, self.is_reversed)
        if not is_in_place:
            self.set_columns(self._columns)
        self.put(self._entries)
        if not is_in_place:
            self.choose(chosen)

    def shown_of_all(self) -> tuple[int, int]:
        """Rows that are shown, and all of them."""
        return len(self._written), len(self._entries)
