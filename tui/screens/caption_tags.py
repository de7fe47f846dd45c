"""Which tags the captions have, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from engine.text import plural, printable
from tui.texts import _

MOST = 500
"""Tags that are listed."""


class TagsScreen(ModalScreen[None]):
    """A table to read.

    Args:
        counts: (tag, captions that have it), the most frequent first.
        captions: all that have a text.
        separator: between tags.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,t", "dismiss", _("Close"))]

    def __init__(self, counts: Sequence[tuple[str, int]], captions: int, separator: str) -> None:
        super().__init__()
        self.counts, self.captions, self.separator = counts, captions, separator

    def compose(self) -> ComposeResult:
        """Heading, table, what it means."""
        heading = _("{0} in {1}").format(
            plural(len(self.counts), _("different tag")), plural(self.captions, _("caption"))
        )
        with Vertical(classes="dialog -large"):
            yield Static(heading, classes="dialog-title", markup=False)
            with VerticalScroll():
                yield Static(self._table())
            words = _("Parts between “{0}”, counted once per caption. Up and Down scroll, Escape closes.")
            yield Static(words.format(self.separator), classes="hint", markup=False)

    def _table(self) -> Text:
        if not self.counts:
            return Text(_("No caption yet."))
        text = Text()
        for tag, count in self.counts[:MOST]:
            everywhere = count == self.captions > 1
            text.append(f"{count:>6} {count / self.captions:>4.0%}  ")
            text.append(printable(tag), "bold" if everywhere else "")
            text.append(_("  in every caption") + "\n" if everywhere else "\n")
        if len(self.counts) > MOST:
            text.append(_("and {0} more").format(len(self.counts) - MOST))
        return text
