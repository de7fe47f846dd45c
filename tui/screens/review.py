"""Step 6: everything about the run before it starts, the equivalent command, and the start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Button
from textual.worker import get_current_worker

from engine.config import ConfigError
from engine.errors import LoraSmithError
from engine.text import printable
from engine.worker import Cancelled
from tui.screens.queue_adding import QueueAdding
from tui.screens.starting import Starting
from tui.setup.fault import fault_of, record_fault
from tui.setup.forecast import Forecaster
from tui.setup.review_report import (
    LiveRunError,
    PlannedMemory,
    Report,
    could_set_aside,
    from_file,
    gather,
    missing,
    plan_vram,
    sections,
    set_aside_automatically,
    step_to_fix,
    warnings,
)
from tui.text.fields import step_title
from tui.text.review_cards import CARDS, cards
from tui.texts import _
from tui.watching.progress import throttled
from tui.widgets.cards import Cards
from tui.widgets.hanging import Hanging, Paragraph

if TYPE_CHECKING:
    from engine.config import RunConfig


class ReviewScreen(QueueAdding, Starting):
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

    def __init__(self) -> None:
        super().__init__()
        self.forecaster = Forecaster()
        self.vram: PlannedMemory | None = None
        """None until it is planned."""
        self.obstacle: tuple[str, str] | None = None
        """(what is wrong, the step where it can be fixed)."""
        self.fault: dict[str, str] = {}
        """The parameter at fault, and the sentence about it."""
        self.notice = ""
        """What replaced a preset that cannot be used."""

    def compose_body(self) -> ComposeResult:
        """The figures, and below them one text that scrolls."""
        yield Cards(CARDS, id="cards")
        with VerticalScroll(id="report", classes="frame"):
            yield Hanging()

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
        self.fault = {}
        gap = missing(self.draft)
        if gap is not None:
            self._obstruct(*gap)
            return
        try:
            config, preset = self.draft.config(), self.draft.without_parameters()
        except ConfigError as error:
            self.fault = fault_of(error)
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
        self.fault = fault_of(error)
        self._obstruct(f"{error.message} {error.hint}".strip(), step_to_fix(error))

    def _obstruct(self, sentence: str, step: str) -> None:
        self.obstacle = (sentence, step)
        if self.live is not None:
            self.set_message(_("It is training already: Ctrl+N watches it."), kind="error")
        else:
            self.set_message(next(iter(self.problems())), kind="error")
        self._draw()

    def _draw(self) -> None:
        """Show the state of the check."""
        self.notice = " ".join(filter(None, (self.notice, self.draft.take_notice())))
        name = printable(str(self.draft.get("saving.output_name") or _("without a name")))
        self.query_one("#report").border_title = name
        cards_shown = self.query_one(Cards)
        cards_shown.display = self.report is not None
        if self.report is not None:
            cards_shown.show(cards(self.report, self.vram))
        paragraphs = list(self._paragraphs())
        self.query_one(Hanging).show(paragraphs if paragraphs[0][0] else paragraphs[1:])
        self.query_one("#next", Button).label = _("Watch it") if self.live is not None else self.next_label()
        self.refresh_bindings()

    def _paragraphs(self) -> Iterator[Paragraph]:
        """Problem or warnings first, then everything, the command last."""
        if self.obstacle is not None:
            yield from _lines(f"✗ {self.obstacle[0]}", "bold")
        if self.notice:
            yield from _lines(f"! {self.notice}", "bold")
        parts = sections(self.report, self.draft, self.vram) if self.report is not None else from_file(self.draft)
        for warning in warnings(self.report) if self.report is not None else ():
            yield from _lines(f"! {warning}", "bold")
        for title, lines in parts:
            yield "", ""
            yield printable(title), "bold"
            for line in lines:
                yield from _lines(f"  {line}")
        yield "", ""
        yield _("The same as a shell command (c copies it)"), "bold"
        yield printable(self.draft.command()), ""

    @property
    def copied_text(self) -> str:
        """The whole review."""
        return self.query_one(Hanging).text

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
        """Go to the step where the problem can be fixed, and there to the field at fault."""
        if self.obstacle is not None:
            if self.obstacle[1] == "parameters":
                record_fault(self.draft, self.fault)
            self.smith.go_to(self.obstacle[1])

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


def _lines(text: str, style: str = "") -> Iterator[Paragraph]:
    """Several lines, each safe for a terminal; those after the first are indented as its text is."""
    first, *more = text.split("\n")
    yield printable(first), style
    yield from ((f"  {printable(line)}", style) for line in more)
