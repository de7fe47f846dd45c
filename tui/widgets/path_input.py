"""A field for a path, with completion. Folders are read in a thread: a network drive may take its time."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import events, on
from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.geometry import Offset
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.text import printable
from tui.setup.completion import Listing, plain_path, read, split
from tui.texts import _
from tui.widgets.text_input import TextInput

MOST_SHOWN = 200
"""Candidates in the list."""


class Candidates(OptionList, can_focus=False):
    """The list below a field, which has the keys; a click chooses as well."""

    DEFAULT_CSS = """
    Candidates, Candidates:ansi {
        overlay: screen; constrain: inside inflect; margin: 1 0; display: none;
        height: auto; max-height: 10; padding: 0; border: round $primary;
        background: $panel; text-wrap: nowrap; text-overflow: ellipsis;
    }
    Candidates > .option-list--option-highlighted {
        color: $block-cursor-foreground; background: $block-cursor-background; text-style: $block-cursor-text-style;
    }
    """

    def __init__(self, field: PathInput) -> None:
        super().__init__()
        self.field = field

    @on(OptionList.OptionHighlighted)
    def _moved(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()  # the screen has lists of its own

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.field.take(event.option_index)


class PathInput(TextInput):
    """A `TextInput` for a path.

    Right takes the grey rest, Down and Up choose from the list, Enter or Tab takes the chosen entry. Without one Tab
    moves on; in a dialog's only field it completes what all entries begin with, then moves through them. Escape closes
    the list. `~`, quotes and file:// of a
    pasted path are resolved as they are entered. `value` leads to the real file also where its name is not valid UTF-8.

    Args:
        value: the initial path.
        suffixes: files must end so (".safetensors"), in lower case; empty for all files. Folders always show.
        folders_only: no files.
    """

    HELP: ClassVar[str] = _(
        "**A path.** Type, and completions are shown after the cursor and below. Right takes the grey rest, "
        "Down chooses from the list, and Enter takes what is chosen. `~` is your home folder."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "tab", "take_chosen", _("Take"), show=False, tooltip=_("Take what is chosen, or go to the next field.")
        ),
        Binding("down", "choose(1)", _("Choose"), show=False, tooltip=_("Show the list and move through it.")),
        Binding("up", "choose(-1)", _("Choose"), show=False),
        Binding("escape", "close_list", _("Close the list")),
    ]

    @dataclass
    class Listed(Message):
        """A folder was read."""

        listing: Listing

    def __init__(
        self, value: str = "", *, suffixes: Collection[str] = (), folders_only: bool = False, **options: Any
    ) -> None:
        super().__init__(plain_path(value), **options)
        self._suffixes, self._folders_only = suffixes, folders_only
        self._listing: Listing | None = None
        self._reading: tuple[str, str] | None = None
        self._candidates: Candidates | None = None
        self._matches: list[str] = []
        self._offering = False
        """List candidates when there are any."""
        self._by_tab = False
        """Tab has chosen in the list, so the next one moves on in it."""

    @property
    def path(self) -> Path | None:
        """The path that was entered; None while the field is empty."""
        text = plain_path(self.value)
        return Path(text) if text else None

    # What is entered

    def replace(self, text: str, start: int, end: int) -> None:
        """Called for every change by a person."""
        self._offering = True
        super().replace(text, start, end)
        value = self.value
        is_quoted = value[:1] in ("'", '"') and value[-1:] == value[:1] and len(value) > 1
        if is_quoted or (value.startswith("~") and "/" in value):
            self._enter(plain_path(value), len(value) - self.cursor_position)

    def _on_paste(self, event: events.Paste) -> None:
        lines = event.text.splitlines()
        super()._on_paste(events.Paste(plain_path(lines[0]) if lines else ""))
        event.stop()
        event.prevent_default()

    def _enter(self, value: str, behind: int = 0) -> None:
        """Set the value, with the cursor `behind` characters before its end."""
        self.value = value
        self.cursor_position = len(value) - behind

    # Candidates

    def watch_value(self, value: str) -> None:
        """Look for candidates."""
        if self.is_attached and self.has_focus:
            self._follow()

    def _follow(self) -> None:
        """Offer the entries of the field's folder, as soon as they are read."""
        folder, name = split(self.value)
        if self._listing is not None and self._listing.serves(folder, name):
            self._offer()
            return
        self._matches = []
        self._hide()
        if self._reading != (folder, name):
            self._reading = (folder, name)
            threading.Thread(target=self._read, args=(folder, name), name="path completion", daemon=True).start()

    def _read(self, folder: str, name: str) -> None:
        """In its own thread, which nothing waits for: leaving must not depend on a drive that hangs."""

        def is_wanted() -> bool:
            return self._reading == (folder, name) and self.is_attached

        listing = read(folder, name, self._suffixes, self._folders_only, is_wanted)
        if is_wanted():
            self.post_message(self.Listed(listing))

    @on(Listed)
    def _take_listing(self, event: Listed) -> None:
        event.stop()
        self._reading = None
        self._listing = event.listing
        if self.has_focus:
            self._follow()

    def _offer(self) -> None:
        folder, name = split(self.value)
        self._matches = self._listing.matches(name) if self._listing is not None else []
        first = self._matches[0] if self._matches and name and self._offering else ""
        self._suggestion = folder + first if first.startswith(name) and printable(first) == first else ""
        if self._offering and self._matches and self._matches != [name]:
            self._show()
        else:
            self._hide()

    def _show(self) -> None:
        if self._candidates is None:
            self._candidates = Candidates(self)
            self.screen.mount(self._candidates)
            self.screen.screen_layout_refresh_signal.subscribe(self, lambda _screen: self._place())
        options = [Option(Text(printable(match), no_wrap=True)) for match in self._matches[:MOST_SHOWN]]
        if len(self._matches) > MOST_SHOWN:
            options.append(Option(_("… and {0} more").format(len(self._matches) - MOST_SHOWN), disabled=True))
        self._candidates.set_options(options)
        self._candidates.highlighted = None
        self._by_tab = False
        self._candidates.display = True
        self._place()
        self.refresh_bindings()

    def _place(self) -> None:
        """Place the list below the field."""
        candidates, field = self._candidates, self.content_region
        place = Offset(max(0, field.x - 1), field.y)
        if candidates is not None and candidates.display and candidates.absolute_offset != place:
            candidates.styles.width = max(20, field.width)
            candidates.absolute_offset = place
            candidates.refresh(layout=True)

    def _hide(self) -> None:
        if self._candidates is not None and self._candidates.display:
            self._candidates.display = False
            self.refresh_bindings()

    @property
    def list_open(self) -> bool:
        """Whether the candidates are shown."""
        return self._candidates is not None and self._candidates.display

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Escape closes the list while it is open; else it is the screen's."""
        return self.list_open if action == "close_list" else super().check_action(action, parameters)

    def action_close_list(self) -> None:
        """Choose none of the candidates."""
        self._offering = False
        self._hide()

    def action_choose(self, by: int) -> None:
        """Move through the list; Down shows it first."""
        self._by_tab = False
        if self._candidates is not None and self.list_open:
            if self._candidates.highlighted is None and by < 0:
                self._candidates.action_last()
            else:
                self._candidates.action_cursor_down() if by > 0 else self._candidates.action_cursor_up()
        elif self._matches and by > 0:
            self._offering = True
            self._show()
        else:
            raise SkipAction

    @property
    def _chosen(self) -> int | None:
        """The candidate that is highlighted in the open list."""
        return self._candidates.highlighted if self._candidates is not None and self.list_open else None

    def action_take_chosen(self) -> None:
        """Enter the chosen candidate; without one, move to the next field, or complete in the only field."""
        is_only = len(self.screen.focus_chain) == 1
        if self._chosen is not None and not (is_only and self._by_tab):
            self.take(self._chosen)
        elif self.list_open and is_only:
            self._complete()
        else:
            raise SkipAction

    def _complete(self) -> None:
        """Enter what all candidates begin with; where that is entered already, choose the next one."""
        folder, name = split(self.value)
        common = os.path.commonprefix(self._matches)  # noqa: RUF071 - of names, not of paths
        if len(self._matches) == 1:
            self.take(0)
        elif len(common) > len(name) and self._chosen is None:
            self._offering = True
            self._enter(folder + common)
        else:
            self.action_choose(1)
            self._by_tab = True

    async def action_submit(self) -> None:
        """Enter the chosen candidate; without one, submit the field."""
        if self._chosen is not None:
            self.take(self._chosen)
            return
        self.action_close_list()
        await super().action_submit()

    def take(self, index: int) -> None:
        """Enter a candidate; a folder then lists its own entries."""
        self._offering = True
        self._enter(split(self.value)[0] + self._matches[index])

    def on_focus(self) -> None:
        """Read the folder again: it may have changed."""
        self._listing = self._reading = None
        self._offering = False
        self._follow()

    def on_blur(self) -> None:
        """Close the list."""
        self._hide()

    def on_unmount(self) -> None:
        """Remove the list with its field."""
        if self._candidates is not None and self._candidates.is_attached:
            self._candidates.remove()

    # Drawing names that are no text

    @property
    def _value(self) -> Text:
        return Text(_drawn(self.value), no_wrap=True, overflow="ignore", end="")

    def _position_to_cell(self, position: int) -> int:
        return Text(_drawn(self.value[:position])).cell_len


def _drawn(text: str) -> str:
    """One character for each, so that the cursor is where it seems to be."""
    return "".join(char if printable(char) == char else "\ufffd" for char in text)
