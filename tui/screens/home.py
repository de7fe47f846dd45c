"""The home screen: all runs with their true state."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import DataTable, Static

from engine.runs import KnownRun, find_runs
from engine.text import printable
from tui.screens.base import BaseScreen
from tui.texts import _


class HomeScreen(BaseScreen):
    """Lists the runs; `n` begins a new one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", _("New run"), tooltip=_("Begin or go on with the wizard."))
    ]
    TITLE = "LoRA Smith"

    class Found(Message):
        """The runs were looked for."""

        def __init__(self, runs: list[KnownRun]) -> None:
            super().__init__()
            self.runs = runs

    def compose_content(self) -> ComposeResult:
        """A table."""
        yield Static(_("Runs"), classes="title")
        yield DataTable(cursor_type="row")

    def on_mount(self) -> None:
        """Look for the runs."""
        self.query_one(DataTable).add_columns(_("Name"), _("State"), _("Step"), _("Where"))
        self.look()

    @work(thread=True, exclusive=True, exit_on_error=False, group="runs")
    def look(self) -> None:
        """Find all runs."""
        self.post_message(self.Found(find_runs([Path.cwd()])))

    @on(Found)
    def _show(self, event: Found) -> None:
        table = self.query_one(DataTable)
        table.clear()
        for run in event.runs:
            table.add_row(printable(run.name), run.state.state, str(run.state.step), printable(run.run_dir.path))

    def action_new(self) -> None:
        """The wizard, where one left it."""
        self.smith.go_to(self.smith.draft.step)
