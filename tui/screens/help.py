"""Help for the focused widget, the screen, and all keys that work now."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Markdown, Static

from tui.texts import _


class HelpScreen(ModalScreen[None]):
    """Shows the help of `behind`; any of escape, q, F1 and ? closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,f1,question_mark", "dismiss", _("Close"))]

    def __init__(self, behind: Screen[Any]) -> None:
        super().__init__()
        self._texts = _help_texts(behind)
        self._keys = _key_lines(behind)

    def compose(self) -> ComposeResult:
        """Markdown above, keys below."""
        with VerticalScroll(classes="dialog -large"):
            if self._texts:
                yield Markdown("\n\n".join(self._texts))
            yield Static(_("Keys"), classes="dialog-title")
            yield Static("\n".join(self._keys), markup=False)
            yield Static(_("Up and Down scroll, Escape closes."), classes="hint")


def _help_texts(behind: Screen[Any]) -> list[str]:
    """Help texts of the focused widget, of its containers and of the screen."""
    texts = []
    for node in behind.focused.ancestors_with_self if behind.focused is not None else [behind]:
        text = getattr(node, "help_text", None) or getattr(node, "HELP", None)
        if isinstance(text, str) and text not in texts:
            texts.append(text)
    return texts


def _key_lines(behind: Screen[Any]) -> list[str]:
    """A line for each key: first LoRA Smith's own, then cursor movement."""
    own: dict[str, list[str]] = {}
    common: dict[str, list[str]] = {}
    for active in behind.active_bindings.values():
        binding = active.binding
        if not binding.system and (binding.description or active.tooltip):
            words = f"{binding.description}{': ' + active.tooltip if active.tooltip else ''}"
            keys = (own if active.tooltip else common).setdefault(words, [])
            if (key := behind.app.get_key_display(binding)) not in keys:
                keys.append(key)
    lines = [[f"{', '.join(keys):>12}  {words}" for words, keys in group.items()] for group in (own, common)]
    return [*lines[0], "", *lines[1]]
