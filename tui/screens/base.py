"""What all screens share: help, the way errors are shown, and one panel for a terminal that is too small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import Container
from textual.css.query import NoMatches
from textual.message import Message
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import MountError, Widget
from textual.widgets import Static
from textual.worker import Worker, WorkerState

from engine.text import printable
from tui.display.key_order import ANSWER_SECONDS
from tui.text.cells import clipped
from tui.texts import HELP_TOOLTIP, _
from tui.widgets.filterable import Filterable
from tui.widgets.key_bar import KeyBar

if TYPE_CHECKING:
    from engine.runs import RunDir
    from tui.app import LoraSmithApp

SHORT = 20
"""Rows below which screens leave out what matters less: the class `-short`."""
MOST_SHOWN = 160
"""Cells of a copied text that are shown."""
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
        Binding(
            "slash", "filter", _("Filter"), key_display="/", show=False, tooltip=_("Show only what has these words.")
        ),
        Binding(
            "y",
            "copy_focused",
            _("To the clipboard"),
            show=False,
            tooltip=_("Copy what has the focus: a path, a text."),
        ),
        Binding("f11", "full", _("Full"), show=False, tooltip=_("This part alone, or all parts again.")),
    ]
    FULL: ClassVar[bool] = False
    """The part with the focus can have the whole screen: the style of the class "-full" hides the rest."""
    HELP: ClassVar[str | None] = None
    """Markdown: what this screen is for. A widget's HELP is shown above it."""

    _focus_before: Widget | None = None
    """What had the focus before a part had the whole screen."""
    _fading: Timer | None = None
    """Until the answer that is shown is cleared."""

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
        """Show only the status when the terminal is too small for more; leave out what matters less in few rows."""
        self.set_class(self.app.size.height < SHORT, "-short")
        self.refresh_status()

    def refresh_status(self) -> None:
        """Update the panel for small terminals where it is shown."""
        width, height = self.app.size
        if width < SMALLEST[0] or height < SMALLEST[1]:
            words = _("Enlarge the terminal to {0} × {1} for the rest.").format(*SMALLEST)
            self.query_one("#too-small", Static).update(f"{self.status_text()}\n\n{words}")

    # Keys and answers

    @property
    def active_bindings(self) -> dict[str, ActiveBinding]:
        """The keys that work now, each named after what it does now."""
        bindings = {}
        for key, active in super().active_bindings.items():
            binding = active.binding
            if (binding.action == "filter" and self._list() is None) or (binding.action == "full" and not self.FULL):
                continue
            if binding.action == "full" and self.has_class("-full"):
                binding = replace(binding, description=_("All parts"), show=True)
            elif label := self.label_of(binding.action):
                binding = replace(binding, description=label)
            bindings[key] = active._replace(binding=binding)
        return bindings

    def label_of(self, action: str) -> str | None:
        """What an action does now, where that changes; None for the label of its key."""
        return None

    def answer(self, sentence: str) -> None:
        """Show for some seconds what a key has done."""
        self.notify(sentence, markup=False)

    def fade(self, clear: Callable[[], object]) -> None:
        """Call `clear` when an answer has been shown long enough; a newer answer starts over."""
        self.keep()
        self._fading = self.set_timer(ANSWER_SECONDS, clear)

    def keep(self) -> None:
        """What is shown next stays."""
        if self._fading is not None:
            self._fading.stop()
            self._fading = None

    def _list(self) -> Filterable | None:
        """The list that a filter is for: the one with the focus, else the first one that is shown."""
        if isinstance(self.focused, Filterable):
            return self.focused
        return next((each for each in self.query(Filterable) if each.size and each.visible), None)

    async def action_filter(self) -> None:
        """Type words that the entries must have; done when the line for them takes the next key."""
        from tui.widgets.filter_line import FilterLine

        target, lines = self._list(), list(self.query(FilterLine))
        if lines and lines[0].target is target:
            lines[0].begin()
        elif target is not None:
            for line in lines:
                line.target.set_filter("")
                line.remove()
            await self.mount(FilterLine(target), before=self.query_one(KeyBar))

    def action_copy_focused(self) -> None:
        """Copy the text of what has the focus, or of what it is in."""
        for node in (self.focused or self).ancestors_with_self:
            text = getattr(node, "copied_text", None)
            if isinstance(text, str) and text:
                self.copy(text)
                return
        self.answer(_("There is nothing to copy here."))

    def copy(self, text: str) -> None:
        """Put a text on the clipboard, and show it: not every terminal has one."""
        self.app.copy_to_clipboard(text)
        lines = text.strip().split("\n")
        more = _(" … ({0} lines)").format(len(lines)) if len(lines) > 1 else ""
        shown = clipped(printable(lines[0]), MOST_SHOWN)
        self.answer(_("Copied (if your terminal allows it): {0}").format(shown) + more)

    def action_full(self) -> None:
        """The part with the focus alone, or everything; the focus returns to where it was."""
        if not self.has_class("-full"):
            self._focus_before = self.focused
        self.toggle_class("-full")
        if not self.has_class("-full") and self._focus_before is not None:
            self.call_after_refresh(self._focus_before.focus)
        self.refresh_bindings()

    def left_full(self) -> bool:
        """Show all parts again, where one had the whole screen; Escape does that before it leaves the screen."""
        is_full = self.has_class("-full")
        if is_full:
            self.action_full()
        return is_full

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
        question = _("The images or the model of {0} have changed").format(printable(error.run_dir.name))
        self.app.push_screen(AskScreen(question, answers, text), answered)

    def resume_accepted(self, run_dir: RunDir) -> None:
        """Resume `run_dir` on what is there now. Screens that resume runs override this."""
        raise NotImplementedError
