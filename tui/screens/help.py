"""Help for the focused widget, the screen, and all keys that work now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from rich.table import Table
from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Markdown, Static

from tui.display.list_keys import is_typing
from tui.texts import _


class HelpScreen(ModalScreen[None]):
    """Shows the help of `behind`; any of escape, q, F1 and ? closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,f1,question_mark", "dismiss", _("Close"))]

    def __init__(self, behind: Screen[Any]) -> None:
        super().__init__()
        self._texts = _help_texts(behind)
        self._keys = list(_key_lines(behind))

    def compose(self) -> ComposeResult:
        """Markdown above, keys below, and always how to close it."""
        with Vertical(classes="dialog -large"):
            with VerticalScroll():
                if self._texts:
                    yield Markdown("\n\n".join(self._texts))
                yield Static(_("Keys"), classes="dialog-title")
                yield Static(_table(self._keys))
            yield Static(_("Up and Down scroll, Escape closes."), classes="hint")

    def on_mount(self) -> None:
        """Scroll by the keys."""
        self.query_one(VerticalScroll).focus()


def _help_texts(behind: Screen[Any]) -> list[str]:
    """Help texts of the focused widget, of its containers and of the screen."""
    texts = []
    for node in behind.focused.ancestors_with_self if behind.focused is not None else [behind]:
        text = getattr(node, "help_text", None) or getattr(node, "HELP", None)
        if isinstance(text, str) and text not in texts:
            texts.append(text)
    return texts


def _table(keys: list[tuple[str, str]]) -> Table:
    """Keys on the left, in their own column, what they do on the right."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1)
    for key, words in keys:
        table.add_row(key, words)
    return table


def _key_lines(behind: Screen[Any]) -> Iterator[tuple[str, str]]:
    """(keys, what they do): those of this screen, then those that every list and text has."""
    own: dict[str, list[str]] = {}
    for active in behind.active_bindings.values():
        binding = active.binding
        if binding.system or not (binding.description or active.tooltip) or not _is_ours(active):
            continue
        words = ": ".join(filter(None, [binding.description, active.tooltip]))
        keys = own.setdefault(words, [])
        if (key := behind.app.get_key_display(binding)) not in keys:
            keys.append(key)
    yield from ((" ".join(keys), words) for words, keys in own.items())
    yield "", ""
    yield "Tab, shift+Tab", _("To the next part or field, or the one before")
    if not is_typing(behind.focused):
        yield "j k g G", _("Down, up, the first, the last; in lists and texts, like the arrow keys, Home and End")
        yield "q", _("Out of here, like Escape; on the list of runs: quit")


def _is_ours(active: ActiveBinding) -> bool:
    """Whether LoRA Smith has bound the key; those of Textual's own widgets move cursors as one expects."""
    key = active.binding.key
    for kind in type(active.node).__mro__:
        bindings = vars(kind).get("BINDINGS", ())
        if any(key in _keys_of(binding) for binding in bindings):
            return not kind.__module__.startswith("textual.")
    return True


def _keys_of(binding: BindingType) -> list[str]:
    keys = binding.key if isinstance(binding, Binding) else binding[0]
    return [key.strip() for key in keys.split(",")]
