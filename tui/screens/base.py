"""What all screens share: help, the way errors are shown, and one panel for a terminal that is too small."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.css.query import NoMatches
from textual.message import Message
from textual.screen import Screen
from textual.widget import MountError
from textual.widgets import Static
from textual.worker import Worker, WorkerState

from engine.text import printable
from tui.texts import HELP_TOOLTIP, _
from tui.widgets.key_bar import KeyBar

if TYPE_CHECKING:
    from engine.runs import RunDir
    from tui.app import LoraSmithApp

SMALLEST = (60, 16)
"""Columns and rows below which only the status panel is shown."""


class BaseScreen(Screen[None]):
    """A screen of LoRA Smith. Subclasses yield their content in `compose_content`.

    Blocking work goes into `@work(thread=True, exclusive=True, exit_on_error=False, group=...)`; an error in it is
    shown by this class. Workers return values or post messages; they never touch a widget.
    """

    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (SMALLEST[0], "-narrow"), (100, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (SMALLEST[1], "-low"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1,question_mark", "help", _("Help"), tooltip=HELP_TOOLTIP),
    ]
    HELP: ClassVar[str | None] = None
    """Markdown: what this screen is for. A widget's HELP is shown above it."""

    @property
    def smith(self) -> LoraSmithApp:
        """The app, with its own type."""
        return cast("LoraSmithApp", self.app)

    async def _dispatch_message(self, message: Message) -> None:
        try:
            await super()._dispatch_message(message)
        except (NoMatches, MountError):
            if self.is_attached and self in self.app.screen_stack:
                raise
            # The screen was left meanwhile: its widgets are gone, and messages of its threads come too late.

    def compose(self) -> ComposeResult:
        """Content, footer, and the panel for small terminals."""
        with Container(id="content"):
            yield from self.compose_content()
        yield KeyBar()
        yield Static(id="too-small")

    def compose_content(self) -> ComposeResult:
        """Everything above the footer."""
        raise NotImplementedError

    def status_text(self) -> str:
        """What to show when nothing else fits."""
        return self.title or ""

    def on_resize(self) -> None:
        """Show only the status when the terminal is too small for more."""
        self.refresh_status()

    def refresh_status(self) -> None:
        """Update the panel for small terminals where it is shown."""
        width, height = self.app.size
        if width < SMALLEST[0] or height < SMALLEST[1]:
            words = _("Enlarge the terminal to {0} × {1} for the rest.").format(*SMALLEST)
            self.query_one("#too-small", Static).update(f"{self.status_text()}\n\n{words}")

    def action_help(self) -> None:
        """`?` where no text is typed; F1 works everywhere."""
        self.smith.action_help()

    @on(Worker.StateChanged)
    def _show_failure(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            self.show_failure(event.worker.error)

    def show_failure(self, error: BaseException) -> None:
        """Show an error; where a run's images or model files changed, ask whether to resume anyway."""
        from engine.runs.inputs import ChangedInputsError
        from tui.screens.ask import AskScreen

        if not isinstance(error, ChangedInputsError):
            self.smith.show_error(error)
            return

        def answered(answer: str | None) -> None:
            if answer == "yes":
                self.resume_accepted(error.run_dir)

        answers = {"no": _("No, leave it"), "yes": _("Resume with what is there now")}
        text = "\n".join(printable(change[:1].upper() + change[1:]) for change in error.changes)
        question = _("{0} was trained on something else").format(printable(error.run_dir.name))
        self.app.push_screen(AskScreen(question, answers, text), answered)

    def resume_accepted(self, run_dir: RunDir) -> None:
        """Resume `run_dir` on what is there now. Screens that resume runs override this."""
        raise NotImplementedError
