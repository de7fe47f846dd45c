"""The footer: the keys that work now, as many as fit; always help and quit."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer
from textual.widgets._footer import FooterKey, FooterLabel

ALWAYS = ("help", "fix", "leave_app")
"""Actions whose keys are never left out, nor is Escape, the way out: F1 lists all the others."""
_PLACES = {"help": -1, "leave_app": 1}
"""Help is always the first key, and the key to quit the last."""

MORE = "… "

Keys = list[tuple[Binding, bool, str]]
"""The keys that the footer shows: with each, whether it works now, and its tooltip."""


class KeyBar(Footer):
    """Textual's footer cuts at the right end, where the key to quit is."""

    def __init__(self) -> None:
        super().__init__(show_command_palette=False, compact=True)
        self._room = 0
        self._composed: Keys | None = None

    def compose(self) -> ComposeResult:
        """The keys that fit; "…" for the rest."""
        self._room = self.app.size.width
        self._composed = _keys_of(self.screen) if self._bindings_ready else None
        keys = sorted(super().compose(), key=_place)
        for key in keys:
            if isinstance(key, FooterKey):  # it would add the class when it is mounted, and be styled a second time
                key.set_class(True, "-compact", update=False)
        yield from fitting(keys, self._room, gap=2 if self.screen.has_class("-wide") else 1)

    def bindings_changed(self, screen: Screen[object]) -> None:
        """Draw again where a key differs: each move of the focus comes here."""
        if self._composed is None or self._composed != _keys_of(screen):
            super().bindings_changed(screen)

    def on_resize(self) -> None:
        """More or fewer fit."""
        if self._room not in (0, self.app.size.width):
            self.call_after_refresh(self.recompose)


def _keys_of(screen: Screen[object]) -> Keys:
    """All that `Footer.compose` reads of the keys that work now."""
    return [(each.binding, each.enabled, each.tooltip) for each in screen.active_bindings.values() if each.binding.show]


def fitting(keys: Sequence[Widget], room: int, gap: int = 1) -> list[Widget]:
    """The keys that fit into `room` cells with a gap behind each; the last ones, except help and quit, become "…"."""
    fit, dropped = list(keys), None
    while sum(_width(key) + gap for key in fit) > room - (_width(MORE) if dropped is not None else 0):
        place = next((at for at in reversed(range(len(fit))) if _droppable(fit[at])), None)
        if place is None:
            break
        fit.pop(place)
        dropped = place
    if dropped is not None:
        fit.insert(dropped, FooterLabel(MORE, markup=False))
    return fit


def _place(key: Widget) -> int:
    return _PLACES.get(_name(key), 0)


def _name(key: Widget) -> str:
    return key.action.rpartition(".")[2] if isinstance(key, FooterKey) else ""


def _droppable(key: Widget) -> bool:
    return isinstance(key, FooterKey) and _name(key) not in ALWAYS and key.key != "escape"


def _width(key: Widget | str) -> int:
    """Cells, without the gap behind it."""
    if isinstance(key, FooterKey):
        return cell_len(f"{key.key_display} {key.description}")
    return cell_len(str(key))
