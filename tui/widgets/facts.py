"""Named facts in rows, redrawn only when one of them changed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text
from textual.widgets import Static

Fact = tuple[str, str]
"""(name, value); a value may take several lines, a name may be empty."""


class Facts(Static):
    """A column of names and one of values."""

    DEFAULT_CSS = "Facts { height: auto; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self.facts: list[Fact] = []

    def set_facts(self, facts: Sequence[Fact]) -> None:
        """Show these facts."""
        if list(facts) == self.facts:
            return
        self.facts = list(facts)
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="dim", min_width=9)  # several of these are below each other
        table.add_column(overflow="fold", ratio=1)
        for name, value in self.facts:
            table.add_row(Text(name), Text(value))
        self.update(table)
