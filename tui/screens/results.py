"""The results of a run: its LoRA files, their samples side by side, and what to do with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import DataTable
from textual.worker import Worker, WorkerState

from engine.errors import LoraSmithError
from engine.paths import expanded
from engine.results.record import RunRecord, read_run
from engine.results.verdict import JudgedFile
from engine.runs import RunDir, is_locked
from engine.runs.history import SavedFile
from engine.text import plural, printable
from tui.screens.base import BaseScreen
from tui.screens.steps import RUN_STEPS, STEPS
from tui.setup.names import free_name
from tui.setup.recent import models_folder, record_models_folder
from tui.text.results import reasons
from tui.texts import _
from tui.widgets.file_table import FileTable
from tui.widgets.frames import framed
from tui.widgets.gallery import Gallery
from tui.widgets.lines import Lines
from tui.widgets.step_bar import StepBar


class ResultsScreen(BaseScreen):
    """Lists the saved files by step, each with its verdict; the recommended one is marked. The person decides."""

    CSS_PATH = "results.tcss"
    FULL = True
    HELP = _("""
## Results

Each file is a LoRA that was read back and checked after it was saved. **● best** marks the one that is recommended;
below the table are the reasons for and against the chosen file. *Learned* is how much of the base model's loss on
validation images is gone, *prompt* how much the rest of a prompt still counts (100 %: as in the base
model). docs/results.md explains all of it.

**Up** and **Down** choose a file, and its samples come into view. **u** copies it, ready for use with its trigger, into
a folder of yours. **Tab** goes to the samples: there **Left** and **Right** go through time, **Up** and **Down**
through the prompts, and **b** flips between an image and the base model's. **F11** shows the samples
alone.
""")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "use", _("Use"), tooltip=_("Copy the chosen file, ready for use, into a models folder.")),
        Binding("w", "what_now", _("What now"), tooltip=_("How to use the chosen file in other programs.")),
        Binding("p", "try_out", _("Try"), tooltip=_("Generate images with the chosen file at several strengths.")),
        Binding("t", "train_on", _("Train on"), tooltip=_("A new run with these settings that starts from this file.")),
        Binding("c", "copy", _("Copy path"), tooltip=_("Copy the path of the chosen file.")),
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
        super().__init__()
        self.run_dir = run_dir
        self.record: RunRecord | None = None
        self._to_centre = False

    def compose_content(self) -> ComposeResult:
        """Files above, samples below."""
        yield StepBar("results", [step.name for step in (*STEPS, *RUN_STEPS[:1])])
        yield Lines(id="heading")
        yield framed(FileTable(), _("Files"))
        yield framed(Lines(id="reasons", wraps=True), _("Verdict"))
        yield framed(Gallery(_("This run has no samples.")), _("Samples"))
        yield Lines(id="message")

    def on_mount(self) -> None:
        """Read the run."""
        self.query_one("#heading", Lines).set_text(_("Reading the run …"))
        self._find()

    @work(thread=True, exclusive=True, exit_on_error=False, group="find")
    def _find(self) -> None:
        self.post_message(self.RunRead(read_run(self.run_dir)))

    @property
    def files(self) -> tuple[JudgedFile, ...]:
        """The files with their verdicts; empty until the run was read."""
        return self.record.assessment.files if self.record else ()

    @on(RunRead)
    def _show(self, event: RunRead) -> None:
        self.record = event.record
        files, samples = self.files, event.record.samples
        heading = [printable(self.run_dir.name), plural(len(files), _("file"))]
        if samples.images:
            heading.append(plural(len(samples.images), _("sample")))
        heading.append(printable(self.run_dir.path))
        self.query_one("#heading", Lines).set_text(
            Content.assemble((heading[0], "bold"), *(f" · {part}" for part in heading[1:]))
        )
        table, best = self.query_one(FileTable), event.record.assessment.best
        table.show_files(files, best)
        table.styles.height = 3 + len(files)  # a height of "auto" is sometimes that before the rows were added
        self.query_one(Gallery).show(samples)
        table.set_class(not files, "-empty")
        if files:
            table.choose(str((best or files[-1]).file.path))
            table.focus()
            self._to_centre = True
        else:
            self.query_one("#reasons", Lines).set_text(_("No LoRA is saved yet. On the run's screen, w saves one now."))
            self.query_one(Gallery).focus()
        self.refresh_bindings()
        self.refresh_status()

    @property
    def judged(self) -> JudgedFile | None:
        """The highlighted file with its verdict."""
        key = self.query_one(FileTable).chosen_key
        return next((judged for judged in self.files if str(judged.file.path) == key), None)

    @property
    def chosen(self) -> SavedFile | None:
        """The highlighted file."""
        return self.judged.file if self.judged is not None else None

    @on(DataTable.RowHighlighted)
    def _moved(self) -> None:
        judged = self.judged
        if judged is not None and self.record is not None:
            self.query_one(Gallery).choose(judged.file.step)
            self.query_one("#reasons", Lines).set_text(reasons(judged, self.record.assessment, self.record.similarity))
            if self._to_centre:
                self._to_centre = False
                self.call_after_refresh(self._centre)  # the reasons below decide how many rows there are

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
        return f"{printable(self.run_dir.name)}: {plural(len(self.files), _('file'))}"

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Actions that need a file are disabled without one."""
        return None if action in ("copy", "train_on", "try_out", "what_now", "use") and not self.files else True

    def action_open(self) -> None:
        """Open the folder where there is a desktop; else show and copy its path."""
        command = opener()
        if command is None:
            self.copy(str(self.run_dir.path))
            return
        try:
            subprocess.Popen(
                [command, str(self.run_dir.path)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self.answer(_("{0} does not start: {1}.").format(command, error.strerror))
            return
        self.answer(_("Opened {0}.").format(printable(self.run_dir.path)))

    def action_copy(self) -> None:
        """Copy the path of the chosen file."""
        if self.chosen is not None:
            self.copy(str(self.chosen.path))

    def action_use(self) -> None:
        """Ask for a models folder, and copy the chosen file into it."""
        from engine.results.use_file import require_folder
        from tui.screens.ask_text import AskTextScreen
        from tui.widgets.path_input import PathInput

        if self.judged is None or self.record is None:
            return
        text = _("{0} is copied there as {1}.safetensors, with its trigger and a sample in its metadata.").format(
            printable(self.judged.file.path.name), printable(self.record.name)
        )
        title = _("Use this one: in which models folder?")
        check = lambda folder: require_folder(expanded(folder))  # noqa: E731
        field = PathInput(models_folder(), folders_only=True, compact=True)
        self.app.push_screen(AskTextScreen(title, text, check, path=field), self._use)

    def _use(self, folder: str | None, *, overwrite: bool = False) -> None:
        if folder is None or self.judged is None or self.record is None:
            return
        from engine.results.use_file import place_in, use

        if not overwrite and place_in(self.record, expanded(folder)).exists():
            self._ask_to_replace(folder)
            return
        try:
            place = use(self.record, self.judged, expanded(folder), overwrite=overwrite)
        except LoraSmithError as error:
            self.smith.show_error(error)
            return
        notice = record_models_folder(folder)
        self.set_message(" ".join(filter(None, [_("Ready for use: {0}").format(printable(place)), notice])))
        if self.others and not is_locked(self.run_dir.lock_path):
            self._ask_to_put_away()

    @property
    def others(self) -> list[Path]:
        """The files that are not chosen."""
        return [judged.file.path for judged in self.files if judged is not self.judged]

    def _ask_to_put_away(self) -> None:
        from engine.results.use_file import AWAY
        from tui.screens.ask import AskScreen

        files = plural(len(self.others), _("other file"))
        answers = {"no": _("Leave {0} where they are").format(files), "yes": _("Move them into {0}").format(AWAY)}
        screen = AskScreen(_("Ready for use. Move the {0} away?").format(files), answers)
        self.app.push_screen(screen, lambda answer: self._put_away() if answer == "yes" else None)

    def _put_away(self) -> None:
        from engine.results.use_file import put_away

        try:
            folder = put_away(self.run_dir, self.others)
        except LoraSmithError as error:
            self.smith.show_error(error)
            return
        self.set_message(_("The other files are in {0}").format(printable(folder)))
        self._find()

    def _ask_to_replace(self, folder: str) -> None:
        from tui.screens.ask import AskScreen

        answers = {"no": _("Keep the existing file"), "yes": _("Replace it")}
        screen = AskScreen(_("A file of that name exists already"), answers)
        self.app.push_screen(screen, lambda answer: self._use(folder, overwrite=True) if answer == "yes" else None)

    def action_try_out(self) -> None:
        """Generate images with the chosen file."""
        from tui.screens.try_out import TryOutScreen

        if self.chosen is not None:
            self.app.push_screen(TryOutScreen(self.run_dir.path / self.chosen.path.name, self.run_dir.path / "try"))

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

    def action_what_now(self) -> None:
        """Show how to use the chosen file."""
        from tui.screens.what_now import WhatNowScreen

        if self.chosen is not None:
            self.app.push_screen(WhatNowScreen(self.run_dir, self.chosen))

    def action_train_on(self) -> None:
        """Open the wizard with the run's settings, the chosen file as the start, and a few epochs more."""
        from engine.config import load_config
        from engine.results.train_on import StartFile, values_of

        file, draft = self.chosen, self.smith.draft
        if file is None:
            return
        try:
            config = load_config(self.run_dir.config_path)
        except (ValueError, OSError) as error:
            self.smith.show_error(error)
            return
        values: dict[str, Any] = {
            **values_of(config, StartFile(file.path, file)),
            "saving.output_name": free_name(config.saving.output_name, lambda name: Path(name).exists()),
            "saving.output_dir": "",  # its own folder: the old run and this file stay where they are
        }
        if draft.unfinished:
            self._ask_to_discard(values)
        else:
            self._begin(values)

    def _ask_to_discard(self, values: Mapping[str, Any]) -> None:
        from tui.screens.ask import AskScreen

        answers = {"no": _("Keep it"), "yes": _("Discard it and train on from this file")}
        screen = AskScreen(_("You have an unfinished setup"), answers)
        self.app.push_screen(screen, lambda answer: self._begin(values) if answer == "yes" else None)

    def _begin(self, values: Mapping[str, Any]) -> None:
        draft = self.smith.draft
        draft.start_over(values, preset=str(self.run_dir.config_path))
        draft.done = [step.name for step in STEPS[:-1]]
        self.smith.go_to("parameters")

    def action_back(self) -> None:
        """Back to the run."""
        if not self.left_full():
            self.dismiss()


def opener(environment: Mapping[str, str] = os.environ) -> str | None:
    """The program that opens a folder; None where there is no desktop."""
    if sys.platform == "darwin":
        return None if "SSH_CONNECTION" in environment else "open"
    display = environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    return shutil.which("xdg-open") if display else None
