"""What every list has: a filter by words, and several orders."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget

from tui.texts import _


class Filterable(Widget):
    """A mixin for lists, after the widget that it is mixed into: Textual takes the style of the first base.

    A subclass shows its entries again in `rearrange`, those that `shows` their text, in the order
    that `order` names; the screen asks for the words (`/`)."""

    ORDERS: ClassVar[tuple[str, ...]] = ()
    """Titles of the orders, the usual one first; without any, the list has its own order only."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "clear_filter", _("Show all"), tooltip=_("Clear the filter and show the whole list.")),
        Binding("s", "sort", _("Sort"), show=False, tooltip=_("Sort the list by something else.")),
        Binding("S", "reverse", _("Reverse"), show=False, tooltip=_("Turn the order of the list around.")),
    ]
    filter_words = ""
    """What the entries are filtered by; empty: nothing."""
    order = 0
    """Place in `ORDERS`."""
    is_reversed = False
    """The last entry of the order is first."""

    class Filtered(Message):
        """Other entries are shown, or none."""

    def rearrange(self) -> None:
        """Show the entries again, after the filter or the order has changed."""
        raise NotImplementedError

    def shown_of_all(self) -> tuple[int, int]:
        """How many entries are shown, and how many there are."""
        raise NotImplementedError

    def shows(self, text: str) -> bool:
        """Whether an entry of this text fits the filter: it has every word, in any case of letters."""
        text = text.casefold()
        return all(word in text for word in self.filter_words.casefold().split())

    def set_filter(self, words: str) -> None:
        """Show the entries that have all these words."""
        if words != self.filter_words:
            self.filter_words = words
            self.rearrange()
            self.post_message(self.Filtered())
            self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what makes a difference."""
        if action == "clear_filter":
            return bool(self.filter_words)
        if action in ("sort", "reverse"):
            return len(self.ORDERS) > 1
        return super().check_action(action, parameters)

    def action_clear_filter(self) -> None:
        """Show everything again."""
        from tui.widgets.filter_line import FilterLine

        self.set_filter("")
        self.screen.query(FilterLine).remove()

    def action_sort(self) -> None:
        """The next order."""
        self.sort_by((self.order + 1) % len(self.ORDERS))

    def action_reverse(self) -> None:
        """The same order from its end."""
        self.sort_by(self.order, is_reversed=not self.is_reversed)

    def sort_by(self, order: int, *, is_reversed: bool = False) -> None:
        """Sort by the order of that place, and report it."""
        self.order, self.is_reversed = order, is_reversed
        self.rearrange()
        answer = getattr(self.screen, "answer", self.notify)
        words = _("Sorted by {0}, reversed.") if is_reversed else _("Sorted by {0}.")
        answer(words.format(self.ORDERS[self.order]))
