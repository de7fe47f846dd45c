"""A step of the wizard: the step bar on top, its content, a message line, and the buttons Back and Next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button, Static

from tui.screens.base import BaseScreen
from tui.screens.steps import STEPS, position
from tui.texts import _
from tui.widgets.step_bar import StepBar

if TYPE_CHECKING:
    from tui.setup.draft import Draft


class StepScreen(BaseScreen):
    """Base of the wizard's steps.

    A subclass names its `STEP`, yields its widgets in `compose_body`, writes what was entered into the draft in
    `store` (called whenever the step is left), and lists what blocks the step in `problems`.
    """

    STEP: ClassVar[str]
    came_back = False
    """It was reached by Escape from the step after it."""
    _standing = ("", "note")
    """The sentence that stays, and its kind."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "next", _("Next"), tooltip=_("Keep this and go to the next step."), priority=True),
        Binding("escape", "back", _("Back"), tooltip=_("One step back; nothing is lost.")),
        Binding("ctrl+g", "jump", _("Steps"), tooltip=_("Go to any step."), priority=True),
    ]

    @property
    def draft(self) -> Draft:
        """What was entered in the wizard so far."""
        return self.smith.draft

    def compose_content(self) -> ComposeResult:
        """Step bar, body, message, buttons."""
        yield StepBar(self.STEP, self.draft.done)
        with VerticalScroll(id="body", can_focus=False):
            yield from self.compose_body()
        with Horizontal(id="bottom"):
            yield Static(id="message", markup=False)
            yield Button(self.back_label(), id="back", compact=True)
            yield Button(self.next_label(), id="next", compact=True, variant="primary")

    def compose_body(self) -> ComposeResult:
        """The step's own widgets."""
        raise NotImplementedError

    def next_label(self) -> str:
        """The label of the button Next."""
        return _("Next")

    def back_label(self) -> str:
        """The label of the button Back; the first step leaves the wizard."""
        return _("Back") if position(self.STEP) else _("Runs")

    def store(self) -> None:
        """Write what was entered into the draft."""

    def problems(self) -> Iterable[str]:
        """Sentences about what blocks the step; the first one is shown."""
        return ()

    def set_message(self, text: str, *, kind: str = "note") -> None:
        """Put one sentence above the footer: kind note, warning or error."""
        self.keep()
        self._standing = text, kind
        self._write(text, kind)

    def clear_error(self) -> None:
        """Remove an error from the line above the footer: what it is about was edited."""
        if self._standing[1] == "error":
            self.set_message("")

    def _write(self, text: str, kind: str) -> None:
        message = self.query_one("#message", Static)
        sign = {"warning": "! ", "error": "✗ "}.get(kind, "")
        message.set_classes(f"-{kind}")
        message.update(sign + text)

    def answer(self, sentence: str) -> None:
        """Show for some seconds what a key has done: above the footer, then the sentence before it again; what is too
        long for that line, in a corner."""
        if cell_len(sentence) > self.query_one("#message").size.width:
            super().answer(sentence)
            return
        self._write(sentence, "note")
        self.fade(lambda: self._write(*self._standing))

    def status_text(self) -> str:
        """The step's place and title."""
        place = position(self.STEP)
        return _("Step {0} of 8: {1}").format(place + 1, STEPS[place].title)

    @on(Button.Pressed, "#next")
    def action_next(self) -> None:
        """Keep what was entered and continue, or show what is missing."""
        self.store()
        problem = next(iter(self.problems()), None)
        if problem is not None:
            self.set_message(problem, kind="error")
            self.not_done()
            return
        if self.STEP not in self.draft.done:
            self.draft.done.append(self.STEP)
        self.leave()

    def not_done(self) -> None:
        """Take the ✓ from a step that has a problem now."""
        if self.STEP in self.draft.done:
            self.draft.done.remove(self.STEP)
            self.query_one(StepBar).show(self.draft.done)

    def leave(self) -> None:
        """Go to the following step; the last step overrides it."""
        self.smith.go_to(STEPS[position(self.STEP) + 1].name)

    @on(Button.Pressed, "#back")
    def action_back(self) -> None:
        """One step back, or home from the first."""
        if self.left_full():
            return
        self.store()
        self.retreat()

    def retreat(self) -> None:
        """Go to the step before; the first step leads to the list of runs."""
        place = position(self.STEP)
        self.smith.go_to(STEPS[place - 1].name if place else None, back=True)

    def action_jump(self) -> None:
        """Choose any step."""
        from tui.screens.jump import JumpScreen

        self.store()
        self.app.push_screen(JumpScreen(self.STEP, self.draft.done), self._jumped)

    def _jumped(self, name: str | None) -> None:
        if name is not None and name != self.STEP:
            self.smith.go_to(name)
