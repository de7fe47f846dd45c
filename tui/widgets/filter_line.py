"""The line in which the words are typed that a list is filtered by."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Static

from tui.texts import _
from tui.widgets.filterable import Filterable
from tui.widgets.text_input import TextInput


class _Words(TextInput):
    """Filters while typing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "finish(True)", _("Show all"), tooltip=_("Clear the filter and show the whole list.")),
        Binding("enter", "finish(False)", _("To the list"), tooltip=_("Keep the filter and go to the list.")),
        Binding("down", "finish(False)", show=False),
    ]

    def action_finish(self, clear: bool) -> None:
        """Back to the list."""
        line = self.parent
        assert isinstance(line, FilterLine)
        line.end(clear=clear)


class FilterLine(Horizontal):
    """Above the footer, as long as there is a filter.

    Args:
        target: the list that is filtered.
    """

    DEFAULT_CSS = """
    FilterLine { height: 1; padding: 0 1; }
    FilterLine .sign { width: 2; text-style: bold; }
    FilterLine Input { width: 1fr; height: 1; border: none; padding: 0; }
    FilterLine .count { width: auto; color: $text-muted; }
    """

    def __init__(self, target: Filterable) -> None:
        super().__init__()
        self.target = target

    def compose(self) -> ComposeResult:
        """Sign, words, how many fit."""
        yield Static("/", classes="sign")
        yield _Words(self.target.filter_words, placeholder=_("words to look for in the list"), compact=True)
        yield Static(classes="count", markup=False)

    def on_mount(self) -> None:
        """Type."""
        self._count()
        self.begin()

    def begin(self) -> None:
        """Focus the words."""
        self.query_one(_Words).focus()

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self.target.set_filter(event.value.strip())
        self._count()

    def _count(self) -> None:
        self.query_one(".count", Static).update(_("{0} of {1}").format(*self.target.shown_of_all()))

    def end(self, *, clear: bool) -> None:
        """Go to the list; with `clear`, or without words, show everything again."""
        self.target.focus()
        if clear or not self.target.filter_words:
            self.target.action_clear_filter()
