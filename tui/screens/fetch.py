"""Downloading a model from the hub: its size, a question, and the progress."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Button, Static
from textual.worker import Worker, WorkerState, get_current_worker

from engine.errors import LoraSmithError
from engine.text import printable
from tui.display.symbols import symbols
from tui.text.download import progress_text
from tui.texts import _

if TYPE_CHECKING:
    from engine.families.fetch import Plan, Progress
    from tui.app import LoraSmithApp

BAR_CELLS = 66


class FetchScreen(ModalScreen[Path | None]):
    """The result is where the model is, or None. The download is a thread: what was downloaded stays in every case.

    Args:
        what: "owner/name", or one file of it.
    """

    CSS_PATH = "fetch.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,d", "download", _("Download"), tooltip=_("Download the model into the local cache.")),
        Binding(
            "escape",
            "leave",
            _("Cancel"),
            tooltip=_("What was downloaded is kept; a later download continues from it."),
        ),
    ]

    @dataclass
    class PlanReady(Message):
        """The plan of the download, or why there is none."""

        result: Plan | LoraSmithError

    @dataclass
    class Moved(Message):
        """More was downloaded."""

        progress: Progress

        def can_replace(self, message: Message) -> bool:
            """Only the newest counts."""
            return isinstance(message, FetchScreen.Moved)

    @dataclass
    class Ended(Message):
        """The path of the model; an error, or None after a cancellation."""

        result: Path | LoraSmithError | None

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self._plan: Plan | None = None
        self._download: Worker[None] | None = None

    def compose(self) -> ComposeResult:
        """Heading, plan, bar, buttons."""
        with VerticalScroll(classes="dialog", can_focus=False):
            yield Static(_("Download {0}").format(printable(self.what)), classes="dialog-title", markup=False)
            yield Static(_("Asking the hub for the size …"), id="plan", markup=False)
            yield Static(id="bar", markup=False)
            yield Static(id="progress", markup=False)
            yield Static(id="trouble", classes="error", markup=False)
            with Horizontal(classes="buttons"):
                yield Button(_("Download"), id="download", compact=True, variant="primary", disabled=True)
                yield Button(_("Cancel"), id="leave", compact=True)
                yield Static(id="keys", classes="hint")

    def on_mount(self) -> None:
        """Ask the hub."""
        self._show_keys()
        self._make_plan(self.what)

    @work(thread=True, exclusive=True, exit_on_error=False, group="plan")
    def _make_plan(self, what: str) -> None:
        from engine.families.fetch import make_plan

        try:
            self.post_message(self.PlanReady(make_plan(what)))
        except LoraSmithError as error:
            self.post_message(self.PlanReady(error))

    @on(PlanReady)
    def _show_plan(self, event: PlanReady) -> None:
        if isinstance(event.result, LoraSmithError):
            self.query_one("#plan").display = False
            self._show_error(event.result)
            return
        self._plan = event.result
        self.query_one("#plan", Static).update("\n".join(event.result.lines()))
        if not event.result.missing:
            self.action_download()
            return
        button = self.query_one("#download", Button)
        button.disabled = False
        button.focus()
        self._show_keys()

    @on(Button.Pressed, "#download")
    def action_download(self) -> None:
        """Start, or continue after an error."""
        if self._plan is None or self._download is not None:
            return
        self._set_line("#trouble", "")
        self.query_one("#download", Button).disabled = True
        self.query_one("#leave", Button).focus()
        self._set_line("#progress", _("Connecting …"))
        self._download = self._fetch(self._plan)
        self._show_keys()

    @work(thread=True, exclusive=True, exit_on_error=False, group="fetch")
    def _fetch(self, plan: Plan) -> None:
        from engine.families.fetch import fetch
        from engine.models.hub.errors import Cancelled

        worker = get_current_worker()
        try:
            path = fetch(plan, lambda progress: self.post_message(self.Moved(progress)), lambda: worker.is_cancelled)
        except Cancelled:
            self.post_message(self.Ended(None))
        except LoraSmithError as error:
            self.post_message(self.Ended(error))
        else:
            self.post_message(self.Ended(path))

    @on(Moved)
    def _show_progress(self, event: Moved) -> None:
        if self._download is None:
            return
        progress = event.progress
        filled = BAR_CELLS * progress.done // max(1, progress.total)
        self._set_line("#bar", symbols().bar(filled, BAR_CELLS))
        self._set_line("#progress", f"{progress_text(progress)}\n{printable(progress.name)}")

    @on(Ended)
    def _ended(self, event: Ended) -> None:
        self._download = None
        if not isinstance(event.result, LoraSmithError):
            self.dismiss(event.result)
            return
        self._set_line("#progress", "")
        self._show_error(event.result)
        button = self.query_one("#download", Button)
        button.disabled = False
        button.focus()
        self._show_keys()

    def _set_line(self, place: str, words: str) -> None:
        """Show words in a line; an empty line takes no room."""
        line = self.query_one(place, Static)
        line.update(words)
        line.display = bool(words)

    def _show_error(self, error: LoraSmithError) -> None:
        lines = f"✗ {error.message}\n{error.hint}".strip().split("\n")
        self._set_line("#trouble", "\n".join(printable(line) for line in lines))

    @on(Button.Pressed, "#leave")
    def action_leave(self) -> None:
        """Stop the download; without one, close."""
        if self._download is not None:
            self._set_line("#progress", _("Stopping; what was downloaded is kept."))
            self._download.cancel()
        else:
            self.dismiss(None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A download needs a plan, and only one runs at a time."""
        return self._plan is not None and self._download is None if action == "download" else True

    def _show_keys(self) -> None:
        ready = self._plan is not None and self._download is None
        keys = _("Enter downloads, Escape closes.") if ready else _("Escape stops; what was downloaded is kept.")
        self.query_one("#keys", Static).update(keys)
        self.refresh_bindings()

    @on(Worker.StateChanged)
    def _show_mistake(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            self._download = None
            cast("LoraSmithApp", self.app).show_error(event.worker.error)
