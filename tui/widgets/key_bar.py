"""The footer: the keys that work now, as many as fit; always help and quit."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.widget import Widget
from textual.widgets import Footer
from textual.widgets._footer import FooterKey, FooterLabel

ALWAYS = ("help", "leave")
"""Actions whose keys are never left out: F1 lists all the others."""

MORE = "… "


class KeyBar(Footer):
    """Textual's footer cuts at the right end, where the key to quit is."""

    def __init__(self) -> None:
        super().__init__(show_command_palette=False, compact=True)
        self._room = 0

    def compose(self) -> ComposeResult:
        """The keys that fit; "…" for the rest."""
        self._room = self.app.size.width
        yield from fitting(list(super().compose()), self._room)

    def on_resize(self) -> None:
        """More or fewer fit."""
        if self._room not in (0, self.app.size.width):
            self.call_after_refresh(self.recompose)


def fitting(keys: Sequence[Widget], room: int) -> list[Widget]:
    """The keys that fit into `room` cells; the last ones, except help and quit, are replaced by "…"."""
    fit, dropped = list(keys), None
    while sum(map(_width, fit)) > room - (_width(MORE) if dropped is not None else 0):
        place = next((at for at in reversed(range(len(fit))) if _droppable(fit[at])), None)
        if place is None:
            break
        fit.pop(place)
        dropped = place
    if dropped is not None:
        fit.insert(dropped, FooterLabel(MORE, markup=False))
    return fit


def _droppable(key: Widget) -> bool:
    return isinstance(key, FooterKey) and key.action.rpartition(".")[2] not in ALWAYS


def _width(key: Widget | str) -> int:
    """Cells, with the space after it."""
    if isinstance(key, FooterKey):
        return cell_len(f"{key.key_display} {key.description} ")
    return cell_len(str(key))
