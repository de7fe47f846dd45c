"""A text input with undo, where focusing selects nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

from rich.cells import cell_len
from rich.segment import Segment
from textual.app import App
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.widgets import Input

from tui.texts import _

MOST_STEPS = 200
"""Changes that can be undone, in one field."""


@dataclass(frozen=True)
class _Step:
    """One undoable change: `before` became `after`."""

    before: str
    after: str
    kind: Literal["typed", "deleted", "other"]
    """Single characters that follow each other are one step."""
    cursor_before: int
    cursor_after: int

    @classmethod
    def between(cls, before: str, after: str) -> _Step:
        """The change between two texts; the cursor is where they differ."""
        start = len(os.path.commonprefix((before, after)))  # noqa: RUF071 - of texts, not of paths
        same = len(os.path.commonprefix((before[start:][::-1], after[start:][::-1])))  # noqa: RUF071
        removed, inserted = len(before) - start - same, len(after) - start - same
        is_shorter = removed == 1 and not inserted
        kind: Literal["typed", "deleted", "other"] = "typed" if inserted == 1 else "deleted" if is_shorter else "other"
        return cls(before, after, kind, start + removed, start + inserted)

    def joined(self, following: _Step) -> _Step | None:
        """Both as one step, where `following` is the next character typed or deleted; else None."""
        typed = following.kind == "typed" and following.cursor_before == self.cursor_after
        if self.kind != following.kind or not (typed or following.kind == "deleted"):
            return None
        return replace(following, before=self.before, cursor_before=self.cursor_before)


@dataclass(frozen=True)
class _History:
    """What can be undone and redone in a field that was left."""

    text: str
    done: list[_Step]
    undone: list[_Step]


_kept: WeakKeyDictionary[App[Any], dict[tuple[str, str], _History]] = WeakKeyDictionary()
"""By the name of the screen and the id of the field."""


class TextInput(Input):
    """An `Input` whose text is not selected when it gets the focus, and whose changes can be undone and redone: also
    after its screen was left and opened again, as long as the text is the same.

    Args:
        value: the initial text; the cursor is at its end.
        select_on_focus: for a line that is opened to type another value.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+z", "undo", _("Undo"), show=False, tooltip=_("Undo the last change.")),
        Binding("ctrl+y", "redo", _("Redo"), show=False, tooltip=_("Redo the change that was undone.")),
    ]

    def __init__(self, value: str = "", *, select_on_focus: bool = False, **options: Any) -> None:
        super().__init__(value, select_on_focus=select_on_focus, **options)
        self._text = ""
        """The text after the last recorded change."""
        self._kept_as = ("", "")
        self._done: list[_Step] = []
        self._undone: list[_Step] = []

    def on_mount(self) -> None:
        """Record changes from now on."""
        self._text = self.value
        self._kept_as = type(self.screen).__name__, self.id or ""
        history = _kept.get(self.app, {}).get(self._kept_as)
        if history is not None and history.text == self.value:
            self._done, self._undone = history.done, history.undone
        self.watch(self, "value", self._record, init=False)

    def render_line(self, y: int) -> Strip:
        """A placeholder that is too long ends with an ellipsis."""
        strip, room = super().render_line(y), self.content_size.width
        if self.value or cell_len(self.placeholder) <= room or room < 2:
            return strip
        kept = [*strip.crop(0, room - 1)]
        return Strip([*kept, Segment("…", kept[-1].style)])

    def on_unmount(self) -> None:
        """Keep what can be undone for the next time."""
        if self.id:
            _kept.setdefault(self.app, {})[self._kept_as] = _History(self.value, self._done, self._undone)

    def begin(self, value: str) -> None:
        """Set another text, and clear the undo history."""
        self._text = self.value = value
        self._done.clear()
        self._undone.clear()

    def _record(self, value: str) -> None:
        """Record a change, whoever made it."""
        if value == self._text:
            return
        step, self._text = _Step.between(self._text, value), value
        self._undone.clear()
        joined = self._done[-1].joined(step) if self._done else None
        if joined is not None:
            self._done[-1] = joined
        else:
            self._done.append(step)
            del self._done[:-MOST_STEPS]

    def edited(self) -> tuple[str, str]:
        """The text for an editor of the person's own, and the extension of its file."""
        return f"{self.value}\n", ".txt"

    def take_edited(self, text: str) -> None:
        """Take the edited text; lines become one."""
        self.value = " ".join(text.split("\n")).strip()

    def action_undo(self) -> None:
        """Undo the last change."""
        if self._done:
            step = self._done.pop()
            self._undone.append(step)
            self._put(step.before, step.cursor_before)

    def action_redo(self) -> None:
        """Redo the change."""
        if self._undone:
            step = self._undone.pop()
            self._done.append(step)
            self._put(step.after, step.cursor_after)

    def _put(self, value: str, cursor: int) -> None:
        self._text = value
        self.value = value
        self.cursor_position = cursor
