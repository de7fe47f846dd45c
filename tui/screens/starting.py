"""Starting the run of a setup, or continuing an unfinished one that is in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textual import on, work
from textual.message import Message

from engine.errors import LoraSmithError
from engine.runs.state import with_detail
from engine.text import printable
from tui.screens.ask import AskScreen
from tui.screens.step import StepScreen
from tui.setup.review_report import Report
from tui.shell.begin import begin, resume
from tui.texts import _

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.runs import RunDir


class Starting(StepScreen):
    """Base of the step Review."""

    @dataclass
    class Started(Message):
        """The run was launched."""

        run_dir: RunDir
        notes: list[str]
        kept: Mapping[str, Any]
        """Settings that keep the trigger word when the next run has another name."""

    @dataclass
    class NotStarted(Message):
        """The run could not be launched."""

        error: BaseException

    def __init__(self) -> None:
        super().__init__()
        self.report: Report | None = None
        """None until everything is checked."""
        self.live: RunDir | None = None
        """A live run in the directory of this one."""
        self.starting = False

    def action_check(self) -> None:
        """Check everything again."""
        raise NotImplementedError

    def action_back(self) -> None:
        """Back, but not in the middle of a start."""
        if not self.starting:
            super().action_back()

    def action_jump(self) -> None:
        """Any step, but not in the middle of a start."""
        if not self.starting:
            super().action_jump()

    def leave(self) -> None:
        """Start; ask first where an unfinished run is in the directory."""
        if self.live is not None:
            self.smith.open_run(self.live)
            return
        assert self.report is not None
        if self.report.unfinished is None:
            self._start(restart=False)
            return
        run_dir, state = self.report.unfinished
        answers = {
            "resume": _("Continue it from step {0}, with its own settings").format(state.step),
            "restart": _("Start over; the unfinished run is kept next to it"),
        }

        def answered(answer: str | None) -> None:
            if answer == "resume":
                self._start_unfinished(run_dir)
            elif answer == "restart":
                self._start(restart=True)

        question = _("An unfinished run is in {0}").format(printable(run_dir.path))
        self.app.push_screen(AskScreen(question, answers, printable(with_detail(state))), answered)

    def _start(self, *, restart: bool) -> None:
        self.starting = True
        self.set_message(_("Starting the training."))
        self._begin(self.draft.config(), self.draft.command_words(), restart)

    def _start_unfinished(self, run_dir: RunDir, *, accept_changes: bool = False) -> None:
        self.starting = True
        self.set_message(_("Continuing the unfinished run."))
        self._resume(run_dir, accept_changes=accept_changes)

    def resume_accepted(self, run_dir: RunDir) -> None:
        """Resume the unfinished run."""
        self._start_unfinished(run_dir, accept_changes=True)

    @work(thread=True, exclusive=True, exit_on_error=False, group="start")
    def _begin(self, config: RunConfig, command_line: list[str], restart: bool) -> None:
        from engine.dataset.trigger import kept_trigger

        notes: list[str] = []
        try:
            run_dir, _process = begin(
                config, command_line=command_line, restart=restart, checked=True, log=notes.append
            )
        except (LoraSmithError, OSError) as error:
            self.post_message(self.NotStarted(error))
        else:
            self.post_message(self.Started(run_dir, notes, kept_trigger(config)))

    @work(thread=True, exclusive=True, exit_on_error=False, group="start")
    def _resume(self, run_dir: RunDir, *, accept_changes: bool = False) -> None:
        notes: list[str] = []
        try:
            resume(run_dir, accept_changes=accept_changes, log=notes.append)
        except (LoraSmithError, OSError) as error:
            self.post_message(self.NotStarted(error))
        else:
            self.post_message(self.Started(run_dir, notes, {}))

    @on(NotStarted)
    def _not_started(self, event: NotStarted) -> None:
        self.starting = False
        self.show_failure(event.error)
        self.action_check()

    @on(Started)
    def _started(self, event: Started) -> None:
        """Open the dashboard; the draft stays for a next run, which begins at the first step."""
        self.draft.stay_for_another(event.kept)
        for note in event.notes:
            self.app.notify(printable(note), markup=False)
        self.smith.open_run(event.run_dir)
