"""Cards in a row: a figure each, with its title in the frame and a line about it."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from tui.text.review_cards import Card


class Cards(Horizontal):
    """A fixed number of cards of equal width; they are empty until `show`."""

    DEFAULT_CSS = """
    Cards { height: 5; }
    Cards Static { width: 1fr; height: 1fr; margin-right: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    Cards Static:last-of-type { margin-right: 0; }
    """

    def __init__(self, titles: Sequence[str], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._titles = titles
        self._shown: list[Card] = []

    def compose(self) -> ComposeResult:
        """The frames."""
        for title in self._titles:
            card = Static("…", classes="frame", markup=False)
            card.border_title = title
            yield card

    def show(self, cards: Sequence[Card]) -> None:
        """Update those that changed."""
        for place, (widget, card) in enumerate(zip(self.query(Static), cards, strict=True)):
            if self._shown and self._shown[place] == card:
                continue
            widget.border_title = card.title
            widget.update(Content.assemble((card.figure, f"bold {card.style}".strip()), f"\n{card.text}"))
        self._shown = list(cards)
