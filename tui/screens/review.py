"""Step 6: everything about the run before it starts, the equivalent command, and the start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Button, Static
from textual.worker import get_current_worker

from engine.config import ConfigError
from engine.errors import LoraSmithError
from engine.text import printable
from engine.worker import Cancelled
from tui.screens.ask import AskScreen
from tui.screens.queue_adding import QueueAdding
from tui.setup.forecast import Forecaster
from tui.setup.review_report import (
    LiveRunError,
    PlannedMemory,
    Report,
    could_set_aside,
    gather,
    missing,
    plan_vram,
    sections,
    set_aside_automatically,
    step_to_fix,
    warnings,
)
from tui.shell.begin import begin, resume
from tui.text.fields import step_title
from tui.text.review_cards import CARDS, cards
from tui.texts import _
from tui.watching.progress import throttled
from tui.widgets.cards import Cards

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.runs import RunDir


class ReviewScreen(QueueAdding):
    """Checks the draft in the background, shows the result, and starts the run."""

    STEP = "review"
    CSS_PATH = "review.tcss"
    AUTO_FOCUS = "#report"
    HELP = _("""
## Review

Everything that the run will do, with the reason for each decision. Warnings are at the top, with a `!`. Up, Down, Page
Up and Page Down scroll.

**Start training** starts it as a separate process; closing the screen does not stop it. `a` adds the run to the queue
instead, `c` copies the command that starts the same run from a shell, `p` keeps the settings as a preset of your own,
without model, images and name.
""")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "next", _("Start"), show=False, tooltip=_("Start the training.")),
        Binding("e", "fix", _("Fix"), tooltip=_("Go to the step where this can be fixed.")),
        Binding("c", "copy", _("Copy command"), tooltip=_("Copy the shell command that starts the same run.")),
        Binding("p", "save_preset", _("Preset"), tooltip=_("Keep these settings as a preset of your own.")),
        Binding("v", "validation", _("Validation"), tooltip=_("Train on the validation images, or set some aside.")),
        Binding("r", "check", _("Check again"), tooltip=_("Check model, images and disk again.")),
    ]

    @dataclass
    class Counted(Message):
        """Progress of reading images."""

        done: int
        total: int

    @dataclass
    class Checked(Message):
        """The check found no problem."""

        report: Report

    @dataclass
    class PlanReady(Message):
        """The memory plan was made."""

        report: Report
        vram: PlannedMemory

    @dataclass
    class Failed(Message):
        """The check found a problem."""

        error: LoraSmithError

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
        self.forecaster = Forecaster()
        self.report: Report | None = None
        self.vram: PlannedMemory | None = None
        """None until it is planned."""
        self.obstacle: tuple[str, str] | None = None
        """(what is wrong, the step where it can be fixed)."""
        self.live: RunDir | None = None
        """A live run in the directory of this one."""
        self.starting = False
        self.notice = ""
        """What replaced a preset that cannot be used."""

    def compose_body(self) -> ComposeResult:
        """The figures, and below them one text that scrolls."""
        yield Cards(CARDS, id="cards")
        with VerticalScroll(id="report", classes="frame"):
            yield Static(id="text")

    def next_label(self) -> str:
        """The last step starts the training."""
        return _("Start training")

    def on_mount(self) -> None:
        """Check after the first layout."""
        self.call_after_refresh(self.action_check)

    def action_check(self) -> None:
        """Check everything again."""
        if self.starting:
            return
        self.report = self.obstacle = self.live = self.vram = None
        gap = missing(self.draft)
        if gap is not None:
            self._obstruct(*gap)
            return
        try:
            config, preset = self.draft.config(), self.draft.without_parameters()
        except ConfigError as error:
            self._obstruct(error.message, step_to_fix(error))
            return
        self.set_message(_("Checking model, images and disk."))
        self._draw()
        self._check(config, preset)

    @work(thread=True, exclusive=True, exit_on_error=False, group="check")
    def _check(self, config: RunConfig, preset: RunConfig) -> None:
        progress = throttled(lambda done, total: self.post_message(self.Counted(done, total)))
        try:
            self.post_message(self.Checked(gather(config, self.forecaster, progress, preset, self.draft.preset)))
        except LoraSmithError as error:
            self.post_message(self.Failed(error))

    @on(Counted)
    def _counted(self, event: Counted) -> None:
        if self.report is None and self.obstacle is None:
            self.set_message(_("Reading images: {0} of {1}").format(event.done, event.total))

    @on(Checked)
    def _show_report(self, event: Checked) -> None:
        self.report = event.report
        count = len(warnings(event.report))
        ready = _("Ready to start.") if not count else _("Ready. Read the lines with ! first.")
        self.set_message(ready, kind="warning" if count else "note")
        self._draw()
        if event.report.gpu is not None:
            self._plan(event.report)

    @work(thread=True, exclusive=True, exit_on_error=False, group="plan")
    def _plan(self, report: Report) -> None:
        worker = get_current_worker()
        with suppress(Cancelled):
            self.post_message(self.PlanReady(report, plan_vram(report, lambda: worker.is_cancelled)))

    @on(PlanReady)
    def _show_plan(self, event: PlanReady) -> None:
        if event.report is self.report:
            self.vram = event.vram
            self._draw()

    @on(Failed)
    def _failed(self, event: Failed) -> None:
        error = event.error
        if isinstance(error, LiveRunError):
            self.live = error.run_dir
        self._obstruct(f"{error.message} {error.hint}".strip(), step_to_fix(error))

    def _obstruct(self, sentence: str, step: str) -> None:
        self.obstacle = (sentence, step)
        if self.live is not None:
            self.set_message(_("It is training already: Ctrl+N watches it."), kind="error")
        else:
            self.set_message(next(iter(self.problems())), kind="error")
        self._draw()

    def _draw(self) -> None:
        """Problem or warnings first, then everything, the command last."""
        self.notice = " ".join(filter(None, (self.notice, self.draft.take_notice())))
        text = Text(overflow="fold")
        name = printable(str(self.draft.get("saving.output_name") or _("without a name")))
        self.query_one("#report").border_title = name
        if self.obstacle is not None:
            text.append(f"✗ {_lines(self.obstacle[0])}\n", "bold")
        if self.notice:
            text.append(f"! {_lines(self.notice)}\n", "bold")
        cards_shown = self.query_one(Cards)
        cards_shown.display = self.report is not None
        if self.report is not None:
            cards_shown.show(cards(self.report, self.vram))
            for warning in warnings(self.report):
                text.append(f"! {_lines(warning)}\n", "bold")
            for title, lines in sections(self.report, self.draft, self.vram):
                text.append(f"\n{printable(title)}\n" if text else f"{printable(title)}\n", "bold")
                for line in lines:
                    text.append(f"  {_lines(line)}\n")
        text.append("\n" + _("The same as a shell command (c copies it)") + "\n", "bold")
        text.append(printable(self.draft.command()))
        self.query_one("#text", Static).update(text)
        self.query_one("#next", Button).label = _("Watch it") if self.live is not None else self.next_label()
        self.refresh_bindings()

    @property
    def copied_text(self) -> str:
        """The whole review."""
        return str(self.query_one("#text", Static).visual)

    def label_of(self, action: str) -> str | None:
        """The last step starts the training, or shows the one that is running there."""
        if action == "next":
            return _("Watch it") if self.live is not None else _("Start")
        return super().label_of(action)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """`e` is there only while there is a problem, `v` while there is a choice."""
        if action == "validation":
            return self.report is not None and (set_aside_automatically(self.report) or could_set_aside(self.report))
        return self.obstacle is not None if action == "fix" else True

    def action_validation(self) -> None:
        """Train on the validation images too, or set them aside again."""
        if self.report is not None:
            self.draft.set("dataset.validation_split", 0.0 if set_aside_automatically(self.report) else None)
            self.action_check()

    def action_fix(self) -> None:
        """Go to the step where the problem can be fixed."""
        if self.obstacle is not None:
            self.smith.go_to(self.obstacle[1])

    def action_back(self) -> None:
        """Back, but not in the middle of a start."""
        if not self.starting:
            super().action_back()

    def action_jump(self) -> None:
        """Any step, but not in the middle of a start."""
        if not self.starting:
            super().action_jump()

    def action_copy(self) -> None:
        """Copy the command, if the terminal allows it."""
        self.copy(self.draft.command())

    def problems(self) -> Iterable[str]:
        """What blocks the start."""
        if self.obstacle is not None and self.live is None:
            yield _("Cannot start yet: e goes to {0}.").format(step_title(self.obstacle[1]))
        elif self.report is None and self.live is None:
            yield _("The check is not finished yet.")
        elif self.starting:
            yield _("The training is starting.")

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
        self.app.push_screen(AskScreen(question, answers, f"{state.state}: {printable(state.detail)}"), answered)

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
        self.began_another(event.kept)
        for note in event.notes:
            self.app.notify(printable(note), markup=False)
        self.smith.open_run(event.run_dir)


def _lines(text: str) -> str:
    """Several lines, each safe for a terminal."""
    return "\n  ".join(printable(line) for line in text.split("\n"))
