"""What is wrong with the pictures and captions: the dataset report, made by a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option
from textual.worker import get_current_worker

from engine.errors import LoraSmithError, UsageError
from engine.runs.layout import expanded
from engine.text import printable
from tui.screens.ask_text import AskTextScreen
from tui.screens.base import BaseScreen
from tui.texts import _
from tui.widgets.thumbnails import Thumbnails
from tui.words.report import SIGNS, details

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.report.findings import Finding, Report

MOST_PICTURES = 400
"""Of one finding, to look through."""


class ReportScreen(BaseScreen):
    """Findings on the left, the chosen one on the right. Leaving ends the process; what it has measured is kept.

    Args:
        config: of the run that the pictures are for.
    """

    CSS_PATH = "report.tcss"
    AUTO_FOCUS = "#findings"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", _("Back"), tooltip=_("To the folders. A report that is being made is ended.")),
        Binding(
            "w", "page", _("Web page"), tooltip=_("Write the report with all thumbnails and crops as one HTML file.")
        ),
        Binding("ctrl+r", "again", _("Again"), tooltip=_("Look at what has changed.")),
    ]
    HELP = _(
        "# Dataset report\n\n✗ must be mended, ! shows in the result, i is good to know. Up and Down go through the "
        "findings, Tab goes to the words and the pictures.\n\nNothing is changed. "
        "`lorasmith check DIR --repair OUT_DIR` writes a copy in which is mended what can be mended safely."
    )

    @dataclass
    class Told(Message):
        """How far it is."""

        what: str
        done: int
        total: int

        def can_replace(self, message: Message) -> bool:
            """Only the newest counts."""
            return isinstance(message, ReportScreen.Told)

    @dataclass
    class Made(Message):
        """The report, and the page that was written with it; or why there is none."""

        result: Report | LoraSmithError
        page: Path | None

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config
        self.report: Report | None = None
        self._busy = False

    def compose_content(self) -> ComposeResult:
        """One line on top, then findings and details."""
        yield Static(_("Looking at the pictures …"), id="verdict", markup=False)
        with Horizontal(id="report"):
            yield OptionList(id="findings", markup=False)
            with Vertical(id="one"):
                with VerticalScroll(id="about"):
                    yield Static(id="details", markup=False)
                yield Thumbnails(id="pictures")

    def on_mount(self) -> None:
        """Begin."""
        self.query_one("#report").display = False
        self._begin(None)

    def _begin(self, page: Path | None) -> None:
        self._busy = True
        self._make(page)

    @work(thread=True, exclusive=True, exit_on_error=False, group="report")
    def _make(self, page: Path | None) -> None:
        from engine.dataset.report.process import ReportCancelled, Wish, ask

        worker = get_current_worker()
        try:
            report, _repaired = ask(
                Wish(self.config, page),
                lambda what, done, total: self.post_message(self.Told(what, done, total)),
                lambda: worker.is_cancelled,
            )
        except ReportCancelled:
            return  # the screen is gone
        except LoraSmithError as error:
            self.post_message(self.Made(error, None))
        else:
            self.post_message(self.Made(report, page))

    @on(Told)
    def _show_progress(self, event: Told) -> None:
        if self._busy:
            words = _("{0}: {1} of {2}. Escape stops; what was measured is kept.")
            self.query_one("#verdict", Static).update(words.format(event.what.capitalize(), event.done, event.total))

    @on(Made)
    def _show_report(self, event: Made) -> None:
        self._busy = False
        verdict = self.query_one("#verdict", Static)
        verdict.set_class(isinstance(event.result, LoraSmithError), "error")
        if isinstance(event.result, LoraSmithError):
            verdict.update(f"✗ {printable(str(event.result))}")
            self.query_one("#report").display = self.report is not None
            return
        self.report = event.result
        verdict.update(self.report.verdict)
        if event.page is not None:
            self.notify(_("Written: {0}").format(printable(event.page)), markup=False)
        listed = self.query_one("#findings", OptionList)
        kept = listed.highlighted or 0
        listed.set_options(Option(Content(_entry(finding))) for finding in self.report.findings)
        self.query_one("#report").display = bool(self.report.findings)
        if self.report.findings:
            listed.highlighted = min(kept, len(self.report.findings) - 1)
            listed.focus()

    @on(OptionList.OptionHighlighted, "#findings")
    def _show_finding(self, event: OptionList.OptionHighlighted) -> None:
        if self.report is None or event.option_index >= len(self.report.findings):
            return
        finding = self.report.findings[event.option_index]
        self.query_one("#details", Static).update(details(finding))
        self.query_one("#about").scroll_home(animate=False)
        strip = self.query_one("#pictures", Thumbnails)
        shown = _pictures(finding)
        strip.display = bool(shown)
        strip.show(shown)

    def action_again(self) -> None:
        """Ask once more; what is known of unchanged pictures is taken from the cache."""
        if not self._busy:
            self._begin(None)

    def action_page(self) -> None:
        """Ask where the page goes."""
        if self.report is None or self._busy:
            return
        question = _("Write the report as a web page")
        words = _("Where to? One HTML file with everything in it, for example {0}.").format("report.html")
        self.app.push_screen(AskTextScreen(question, words, require_page_place), self._page_named)

    def _page_named(self, answer: str | None) -> None:
        if answer is not None and not self._busy:
            self._begin(require_page_place(answer))

    def action_leave(self) -> None:
        """Back; the process is ended."""
        self.workers.cancel_group(self, "report")
        self.app.pop_screen()


def require_page_place(answer: str) -> Path:
    """The file that is meant.

    Raises:
        UsageError: it is there already, or its folder is not.
    """
    path = expanded(answer).absolute()
    path = path if path.suffix else path.with_suffix(".html")
    if path.exists():
        raise UsageError(f"{printable(path)} is there already.", "Name another file.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {printable(path.parent)}.", "Name a file in a folder that is there.")
    return path


def _entry(finding: Finding) -> str:
    """ "! Blurred (3)"."""
    count = len(finding.pictures)
    return f"{SIGNS[finding.kind.level]} {finding.kind.title}" + (f" ({count})" if count else "")


def _pictures(finding: Finding) -> list[tuple[Path, str]]:
    """(picture, what is said of it)."""
    known = dict.fromkeys((path, case.said) for case in finding.cases for path in case.pictures)
    return [(path, printable(said)) for path, said in known][:MOST_PICTURES]
