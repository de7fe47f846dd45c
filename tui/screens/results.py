"""The results of a run: its LoRA files, their samples side by side, and what to do with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import DataTable
from textual.worker import Worker, WorkerState

from engine.results.columns import BY_NAME
from engine.results.record import RunRecord, read_run
from engine.runs import RunDir
from engine.text import plural, printable
from tui.screens.file_actions import OF_A_FILE, FileActions
from tui.screens.resuming import Resuming
from tui.screens.steps import RUN_STEPS, STEPS
from tui.text.results import reasons
from tui.texts import _
from tui.widgets.file_table import FileTable
from tui.widgets.frames import framed
from tui.widgets.gallery import Gallery
from tui.widgets.lines import Lines, Passage
from tui.widgets.step_bar import StepBar


class ResultsScreen(FileActions):
    """Lists the saved files by step, each with its verdict; the recommended one is marked. The person decides."""

    CSS_PATH = "results.tcss"
    FULL = True
    HELP = _("""
## Results

Each file is a LoRA that was read back and checked after it was saved. **● best** marks the one that is recommended;
below the table are the reasons for and against the chosen file. **● best of these**: even that one is overtrained. In a
narrow terminal the figures for which the table has no room are there too. docs/results.md explains all of it.

{0}

**Up** and **Down** choose a file, and its samples come into view. **u** copies it, ready for use with its trigger, into
a folder of yours, under any name. **f** marks a favourite of yours (★), or unmarks it. **r** continues a run that has
ended: a finished run for more steps or epochs.

**Tab** goes to the verdict where it is longer than its place, and to the samples: there **Left** and **Right** go
through time, **Up** and **Down** through the prompts, and **b** flips between an image and the base model's. **F11**
shows the part with the focus alone: files and verdict, or the samples.
""")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "use", _("Use"), tooltip=_("Copy the chosen file, ready for use, into a models folder.")),
        Binding("w", "what_now", _("What now"), tooltip=_("How to use the chosen file in other programs.")),
        Binding("p", "try_out", _("Try"), tooltip=_("Generate images with the chosen file at several strengths.")),
        Binding("t", "train_on", _("Train on"), tooltip=_("A new run with these settings that starts from this file.")),
        Binding("c", "copy", _("Copy path"), tooltip=_("Copy the path of the chosen file.")),
        Binding(
            "r", "resume", _("Resume"), tooltip=_("Back to the run, to continue it; a finished run is trained longer.")
        ),
        Binding("f", "favourite", _("Favourite"), tooltip=_("Mark the chosen file (★), or unmark it.")),
        Binding("o", "open", _("Open folder"), tooltip=_("Open the run's folder, or show and copy its path.")),
        Binding("i", "sheet", _("Contact sheet"), tooltip=_("Write all samples into one image, next to them.")),
        Binding("escape", "back", _("Back"), tooltip=_("Back to the run.")),
    ]

    @dataclass
    class RunRead(Message):
        """The run was read."""

        record: RunRecord

    @dataclass
    class Drawn(Message):
        """The contact sheet was written; None where there is nothing to draw."""

        path: Path | None

    def __init__(self, run_dir: RunDir) -> None:
        super().__init__(run_dir)
        self._to_centre = False

    def compose_content(self) -> ComposeResult:
        """Files above, samples below."""
        yield StepBar("results", [step.name for step in (*STEPS, *RUN_STEPS[:1])])
        yield Lines(id="heading")
        yield FileTable()
        yield Passage(_("Verdict"), id="reasons")
        yield framed(Gallery(""), _("Samples"))
        yield Lines(id="message", wraps=True)

    def on_mount(self) -> None:
        """Read the run."""
        self.query_one("#heading", Lines).set_text(_("Reading the run …"))
        self._find()

    @work(thread=True, exclusive=True, exit_on_error=False, group="find")
    def _find(self) -> None:
        self.post_message(self.RunRead(read_run(self.run_dir)))

    @on(RunRead)
    def _show(self, event: RunRead) -> None:
        self.record = event.record
        files, samples = self.files, event.record.samples
        heading = [printable(event.record.title), plural(len(files), _("file"))]
        if samples.images:
            heading.append(plural(len(samples.images), _("sample")))
        heading.append(printable(self.run_dir.path))
        self.query_one("#heading", Lines).set_text(
            Content.assemble((heading[0], "bold"), *(f" · {part}" for part in heading[1:]))
        )
        table, best = self.query_one(FileTable), event.record.assessment.best
        table.show_files(files, best, event.record.remarks.favourites)
        table.styles.height = 3 + len(files)  # a height of "auto" is sometimes that before the rows were added
        self.query_one(Gallery).show(samples, _("This run has no samples."))
        table.set_class(not files, "-empty")
        if files:
            table.choose(str((best or files[-1]).file.path))
            table.focus()
            self._to_centre = True
        else:
            saves = _("No LoRA is saved yet. On the run's screen, w saves one now.")
            live = event.record.state.live
            self.query_one("#reasons", Passage).set_text(saves if live else _("This run has saved no LoRA."))
            self.query_one(Gallery).focus()
        self.refresh_bindings()
        self.refresh_status()

    @on(DataTable.RowHighlighted)
    def _moved(self) -> None:
        judged = self.judged
        if judged is not None and self.record is not None:
            self.query_one(Gallery).choose(judged.file.step)
            self._show_reasons()
            if self._to_centre:
                self._to_centre = False
                self.call_after_refresh(self._centre)  # the reasons below decide how many rows there are

    def _show_reasons(self) -> None:
        """The verdict on the highlighted file, with the figures that its table has no room for."""
        judged, record = self.judged, self.record
        if judged is not None and record is not None:
            figures = self.query_one(FileTable).further_figures
            words = reasons(judged, record.assessment, record.similarity, figures)
            self.query_one("#reasons", Passage).set_text(words)

    def on_descendant_focus(self) -> None:
        """In few rows the part with the focus has the room: files and verdict, or the samples."""
        on_samples = self.query_one(Gallery).has_focus
        if on_samples != self.has_class("-samples"):
            self.set_class(on_samples, "-samples")
            self.call_after_refresh(self._centre)

    def on_resize(self) -> None:
        """Name the key to the samples where they have no room; other columns may fit."""
        super().on_resize()
        self.call_after_refresh(self._show_reasons)
        self.query_one(Gallery).border_title = _("Samples (Tab)") if self.has_class("-short") else _("Samples")

    def _centre(self) -> None:
        """Show the highlighted file with its neighbours on both sides."""
        table = self.query_one(FileTable)
        if table.virtual_size.height <= table.row_count:  # it has not measured its rows yet
            self.call_after_refresh(self._centre)
            return
        rows_shown = table.scrollable_content_region.height - table.header_height
        table.scroll_to(y=max(0, table.cursor_row - (rows_shown - 1) // 2), animate=False, force=True)

    def set_message(self, sentence: str) -> None:
        """Put a sentence above the footer."""
        self.keep()
        self.query_one("#message", Lines).set_text(sentence)

    def answer(self, sentence: str) -> None:
        """Show above the footer, for some seconds, what a key has done."""
        self.set_message(sentence)
        self.fade(lambda: self.set_message(""))

    def status_text(self) -> str:
        """The run and how many files it has."""
        name = self.record.title if self.record is not None else self.run_dir.name
        return f"{printable(name)}: {plural(len(self.files), _('file'))}"

    @property
    def help_text(self) -> str:
        """About the screen, and the figures of its table."""
        explained = (BY_NAME[name] for name in ("learned", "train_learned", "response"))
        lines = (f"* **{_(each.heading or each.title)}**: {_(each.explanation)}" for each in explained)
        return self.HELP.format("\n".join(lines))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Actions that need a file are there with one only, a resume where the run's own screen offers it."""
        if action == "resume":
            return self._dashboard is not None and self._dashboard.check_action(action, parameters)
        return bool(self.files) if action in OF_A_FILE else True

    def label_of(self, action: str) -> str | None:
        """A resume is named as on the run's own screen."""
        if action == "resume" and self._dashboard is not None:
            return self._dashboard.label_of(action)
        return super().label_of(action)

    @property
    def _dashboard(self) -> Resuming | None:
        """The run's own screen, where this was opened from it."""
        behind = self.app.screen_stack[-2:-1]
        return behind[0] if behind and isinstance(behind[0], Resuming) else None

    def action_resume(self) -> None:
        """Back to the run, and resume it there."""
        if (dashboard := self._dashboard) is not None:
            self.dismiss()
            self.app.call_later(dashboard.action_resume)

    def action_sheet(self) -> None:
        """Draw all samples into one image."""
        self.set_message(_("Drawing …"))
        self._draw_sheet()

    @work(thread=True, exclusive=True, exit_on_error=False, group="sheet")
    def _draw_sheet(self) -> None:
        from engine.runs.contact import sheet_path, write_sheet

        samples = read_run(self.run_dir).samples  # there may be more of them by now
        self.post_message(self.Drawn(write_sheet(samples, sheet_path(self.run_dir))))

    @on(Worker.StateChanged)
    def _not_drawn(self, event: Worker.StateChanged) -> None:
        """The base class shows why; clear the message."""
        if event.worker.group == "sheet" and event.state is WorkerState.ERROR:
            self.set_message("")

    @on(Drawn)
    def _show_sheet(self, event: Drawn) -> None:
        if event.path is None:
            self.answer(_("This run has no samples."))
        else:
            self.set_message(_("Contact sheet: {0}").format(printable(event.path)))

    def action_back(self) -> None:
        """Back to the run."""
        if not self.left_full():
            self.dismiss()
