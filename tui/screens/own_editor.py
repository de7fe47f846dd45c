"""F6: a text of a screen in the person's own editor, until the screen takes it or the person discards it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Protocol

from textual.app import ComposeResult, SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from engine.errors import LoraSmithError, UsageError
from tui.screens.problem import describe
from tui.shell.editor import EditedFile, editor
from tui.texts import _

if TYPE_CHECKING:
    from tui.app import LoraSmithApp


class Owner(Protocol):
    """What offers a text to F6."""

    def edited(self) -> tuple[str, str]:
        """The text, and the extension of its file."""

    def take_edited(self, text: str) -> None:
        """Take the edited text.

        Raises:
            LoraSmithError: it cannot be used; the person may edit it again.
        """


class EditAgainScreen(ModalScreen[bool]):
    """Why an edited text was not taken: True edits it again, False discards it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e,f6,enter", "dismiss(True)", _("Edit again"), tooltip=_("Open the text as you left it.")),
        Binding("escape", "dismiss(False)", _("Discard"), tooltip=_("Discard what was edited.")),
    ]

    def __init__(self, error: LoraSmithError) -> None:
        super().__init__()
        self.heading, self.text = describe(error)

    def compose(self) -> ComposeResult:
        """Title, sentence, hint."""
        with VerticalScroll(classes="dialog -problem"):
            yield Static(f"✗ {self.heading}", classes="dialog-title", markup=False)
            yield Static(self.text, markup=False)
            yield Static(_("e opens your text again as you left it, Escape discards it."), classes="hint")


class OwnEditor:
    """Edits the text of `owner`, as often as it takes.

    Raises:
        LoraSmithError: there is no editor; nothing was begun.
    """

    def __init__(self, app: LoraSmithApp, owner: Owner) -> None:
        self._app, self._owner = app, owner
        self._text, suffix = owner.edited()
        self._file = EditedFile(self._text, suffix, editor())
        self._edit(0)

    def _edit(self, line: int) -> None:
        try:
            text = self._edited(line)
            if text != self._text:
                self._owner.take_edited(text)
        except LoraSmithError as error:
            self._ask(error)
        else:
            self._file.close()

    def _edited(self, line: int) -> str:
        """The edited text. Nothing is raised while the screen is suspended: it would stay so."""
        problem = None
        try:
            with self._app.suspend():
                try:
                    text = self._file.edit(line)
                except UsageError as error:
                    problem = error
        except SuspendNotSupported:
            problem = UsageError(
                _("The screen cannot be left for an editor here."), _("Nothing was changed."), code="editor-failed"
            )
        if problem is not None:
            raise problem
        return text

    def _ask(self, error: LoraSmithError) -> None:
        place = re.search(r"\bline (\d+)", error.message)

        def answered(again: bool | None) -> None:
            if again:
                self._edit(int(place[1]) if place else 0)
            else:
                self._file.close()

        self._app.push_screen(EditAgainScreen(error), answered)
