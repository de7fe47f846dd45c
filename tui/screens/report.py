"""The dataset report: what is wrong with the images and captions, computed by another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.worker import get_current_worker

from engine.errors import LoraSmithError, UsageError
from engine.paths import expanded
from engine.text import printable
from tui.screens.ask_text import AskTextScreen
from tui.screens.base import BaseScreen
from tui.text.report import SIGNS, details
from tui.texts import _
from tui.widgets.frames import framed
from tui.widgets.option_rows import OptionRows
from tui.widgets.path_input import PathInput
from tui.widgets.thumbnails import Thumbnails

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.report.findings import Finding, Report

MOST_IMAGES = 400
"""Images of one finding that are shown."""


class ReportScreen(BaseScreen):
    """Findings on the left, the chosen one on the right. Leaving ends the process; its measurements are cached.

    Args:
        config: of the run that the images are for.
    """

    CSS_PATH = "report.tcss"
    AUTO_FOCUS = "#findings"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", _("Back"), tooltip=_("Back to the folders. A report in progress is stopped.")),
        Binding(
            "w", "page", _("Web page"), tooltip=_("Write the report with all thumbnails and crops as one HTML file.")
        ),
        Binding("ctrl+r", "reload", _("Reload"), tooltip=_("Check what has changed.")),
    ]
    HELP = _(
        "# Dataset report\n\n✗ must be fixed, ! affects the result, i is for information. Up and Down go through the "
        "findings, Tab goes to the text and the images, / filters the findings.\n\nNothing is changed. "
        "`lorasmith check DIR --repair OUT_DIR` writes a copy with everything fixed that can be fixed safely."
    )

    @dataclass
    class ProgressReported(Message):
        """Progress of the report."""

        what: str
        done: int
        total: int

        def can_replace(self, message: Message) -> bool:
            """Only the newest counts."""
            return isinstance(message, ReportScreen.ProgressReported)

    @dataclass
    class ReportReady(Message):
        """The report and the page that was written with it; or an error."""

        result: Report | LoraSmithError
        page: Path | None

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config
        self.report: Report | None = None
        self._busy = False

    def compose_content(self) -> ComposeResult:
        """One line on top, then findings and details."""
        yield Static(_("Reading the images …"), id="verdict", markup=False)
        with Horizontal(id="report"):
            yield framed(OptionRows(id="findings"), _("Findings"))
            with framed(Vertical(id="one"), _("Details")):
                with VerticalScroll(id="about"):
                    yield Static(id="details", markup=False)
                yield Thumbnails(id="images")

    def on_mount(self) -> None:
        """Begin."""
        self.query_one("#report").display = False
        self._begin(None)

    def _begin(self, page: Path | None) -> None:
        self._busy = True
        self._make(page)

    @work(thread=True, exclusive=True, exit_on_error=False, group="report")
    def _make(self, page: Path | None) -> None:
        from engine.dataset.report.process import CheckRequest, ask
        from engine.worker import Cancelled

        worker = get_current_worker()
        try:
            report, _repaired = ask(
                CheckRequest(self.config, page),
                lambda what, done, total: self.post_message(self.ProgressReported(what, done, total)),
                lambda: worker.is_cancelled,
            )
        except Cancelled:
            return  # the screen is gone
        except LoraSmithError as error:
            self.post_message(self.ReportReady(error, None))
        else:
            self.post_message(self.ReportReady(report, page))

    @on(ProgressReported)
    def _show_progress(self, event: ProgressReported) -> None:
        if self._busy:
            words = _("{0}: {1} of {2}. Escape stops; measurements are kept.")
            self.query_one("#verdict", Static).update(words.format(event.what.capitalize(), event.done, event.total))

    @on(ReportReady)
    def _show_report(self, event: ReportReady) -> None:
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
        options = self.query_one("#findings", OptionRows)
        options.put([_entry(finding) for finding in self.report.findings])
        self.query_one("#report").display = bool(self.report.findings)
        if self.report.findings:
            options.focus()

    @on(OptionList.OptionHighlighted, "#findings")
    def _show_finding(self) -> None:
        place = self.query_one("#findings", OptionRows).place
        if self.report is None or place is None or place >= len(self.report.findings):
            return
        finding = self.report.findings[place]
        self.query_one("#details", Static).update(details(finding))
        self.query_one("#about").scroll_home(animate=False)
        strip = self.query_one("#images", Thumbnails)
        images = _images(finding)
        strip.display = bool(images)
        strip.show(images)

    def action_reload(self) -> None:
        """Make the report again; unchanged images are read from the cache."""
        if not self._busy:
            self._begin(None)

    def action_page(self) -> None:
        """Ask where the page goes."""
        if self.report is None or self._busy:
            return
        question = _("Write the report as a web page")
        words = _("Where to? One HTML file with everything in it, for example {0}.").format("report.html")
        field = PathInput(suffixes=(".html",), compact=True)
        self.app.push_screen(AskTextScreen(question, words, require_page_place, path=field), self._page_named)

    def _page_named(self, answer: str | None) -> None:
        if answer is not None and not self._busy:
            self._begin(require_page_place(answer))

    def action_leave(self) -> None:
        """Back; the process is ended."""
        self.workers.cancel_group(self, "report")
        self.app.pop_screen()


def require_page_place(answer: str) -> Path:
    """The file that `answer` names.

    Raises:
        UsageError: it exists already, or its folder does not.
    """
    path = expanded(answer).absolute()
    path = path if path.suffix else path.with_suffix(".html")
    if path.exists():
        raise UsageError(f"{printable(path)} exists already.", "Name another file.", code="output-exists")
    if not path.parent.is_dir():
        raise UsageError(
            f"There is no folder {printable(path.parent)}.",
            "Name a file in a folder that exists.",
            code="output-folder-missing",
        )
    return path


def _entry(finding: Finding) -> str:
    """ "! Blurred (3)"."""
    count = len(finding.images)
    return f"{SIGNS[finding.kind.level]} {finding.kind.title}" + (f" ({count})" if count else "")


def _images(finding: Finding) -> list[tuple[Path, str]]:
    """(image, a note about it)."""
    notes = dict.fromkeys((path, case.text) for case in finding.cases for path in case.images)
    return [(path, printable(note)) for path, note in notes][:MOST_IMAGES]
