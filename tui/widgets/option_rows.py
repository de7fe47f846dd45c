"""A list of options that can be filtered."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from tui.widgets.filterable import Filterable


class OptionRows(OptionList, Filterable):
    """Shows texts as options; the id of an option is the place of its text among all."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False)
        self._texts: Sequence[str] = ()

    def put(self, texts: Sequence[str]) -> None:
        """Show these; the highlighted place stays."""
        self._texts = texts
        self.rearrange()

    @property
    def place(self) -> int | None:
        """The place of the highlighted text among all; None where none is shown."""
        option = self.highlighted_option
        return int(option.id) if option is not None and option.id is not None else None

    @property
    def copied_text(self) -> str:
        """The highlighted text."""
        return self._texts[self.place] if self.place is not None else ""

    def rearrange(self) -> None:
        """Show the texts that fit the filter."""
        before = self.place or 0
        shown = [place for place, text in enumerate(self._texts) if self.shows(text)]
        self.set_options(Option(Content(self._texts[place]), id=str(place)) for place in shown)
        if shown:
            self.highlighted = next((row for row, place in enumerate(shown) if place >= before), len(shown) - 1)

    def shown_of_all(self) -> tuple[int, int]:
        """Texts that fit the filter, and all of them."""
        return self.option_count, len(self._texts)
