"""The table of the queue: what runs, what waits in its order, what has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from tui.text.queue_rows import columns_for, ranks, row, searched
from tui.texts import _
from tui.widgets.row_table import Entry, RowTable

if TYPE_CHECKING:
    from tui.text.queue_rows import Seen


class QueueTable(RowTable):
    """One row per entry; the row's key is the entry's number."""

    ORDERS = (_("the queue's order"), _("name"), _("state"))
    ORDER_OF = {"id": 0, "name": 1, "state": 2}  # noqa: RUF012 - not changed
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", _("Open"), tooltip=_("Watch the run, or see how it ended.")),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.add_class("frame")
        self.border_title = _("Queue")
        self._seen: Mapping[str, Seen] = {}

    @property
    def chosen(self) -> Seen | None:
        """The entry under the cursor."""
        return self._seen.get(self.chosen_key)

    @property
    def copied_text(self) -> str:
        """The directory of the run under the cursor."""
        return self.chosen.entry.run_dir if self.chosen is not None else ""

    def show_entries(self, seen: Mapping[str, Seen]) -> None:
        """Show these, in this order; the cursor stays on its entry."""
        self._seen = seen
        self._show()

    def on_resize(self) -> None:
        """Fit the columns to the width."""
        chosen = self.chosen_key
        self.set_columns([(column.name, column.title, column.width) for column in columns_for(self.app.size.width)])
        self._show(rewrite=True)
        self.choose(chosen)

    def _show(self, *, rewrite: bool = False) -> None:
        if not self.names:  # its width is not known yet
            return
        columns = columns_for(self.app.size.width)
        entries = {key: Entry(row(seen, columns), searched(seen), ranks(seen)) for key, seen in self._seen.items()}
        self.put(entries, rewrite=rewrite)
        shown, count = self.shown_of_all()
        self.border_subtitle = str(count) if shown == count else _("{0} of {1}").format(shown, count)
