"""What a run has made: its LoRA files, their samples side by side, and the way on from here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import DataTable
from textual.worker import Worker, WorkerState

from engine.runs import RunDir, read_events
from engine.runs.history import RunHistory, SavedFile
from engine.text import plural, printable, size_text
from tui.screens.base import BaseScreen
from tui.screens.steps import RUN_STEPS, STEPS
from tui.texts import _
from tui.widgets.gallery import Gallery
from tui.widgets.lines import Lines
from tui.widgets.step_bar import StepBar

if TYPE_CHECKING:
    from engine.runs.contact import Samples


class ResultsScreen(BaseScreen):
    """Lists the saved files by step. The lowest held-out loss is marked; a training loss ranks nothing."""

    CSS_PATH = "results.tcss"
    HELP = _("""
## Results

Each file is a LoRA that was read back and checked after it was saved. **● lowest** marks the held-out loss of the file
that did best on pictures it was not trained on; where there are no such pictures, compare the samples.

**Up** and **Down** choose a file, and its samples come into view. **Tab** goes to the samples: there **Left** and
**Right** walk through time, **Up** and **Down** through the prompts.
""")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "open", _("Folder"), tooltip=_("Open the run's folder, or show and copy its path.")),
        Binding("c", "copy", _("Copy"), tooltip=_("Copy the path of the chosen file.")),
        Binding("t", "train_on", _("Train on"), tooltip=_("A new run with these settings that begins with this file.")),
        Binding("g", "sheet", _("Sheet"), tooltip=_("All samples in one picture beside them.")),
        Binding("escape", "back", _("Back"), tooltip=_("Back to the run.")),
    ]

    @dataclass
    class Found(Message):
        """The files and samples were looked up."""

        files: list[SavedFile]
        samples: Samples

    @dataclass
    class Drawn(Message):
        """The contact sheet was written; None where there is nothing to draw."""

        path: Path | None

    def __init__(self, run_dir: RunDir) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.files: list[SavedFile] | None = None

    def compose_content(self) -> ComposeResult:
        """Files above, samples below."""
        yield StepBar("results", [step.name for step in (*STEPS, *RUN_STEPS[:1])])
        yield Lines(id="heading")
        yield DataTable(cursor_type="row")
        yield Lines(id="none", wraps=True)
        yield Gallery(_("This run has no samples."))
        yield Lines(id="message")

    def on_mount(self) -> None:
        """Look up what there is."""
        self.query_one("#heading", Lines).say(_("Reading the run …"))
        self.query_one(DataTable).add_columns(_("File"), _("Size"), _("Epoch"), _("Step"), _("Held-out loss"))
        self._find()

    @work(thread=True, exclusive=True, exit_on_error=False, group="find")
    def _find(self) -> None:
        history = RunHistory()
        history.feed(read_events(self.run_dir.events_path))
        self.post_message(self.Found(history.files(self.run_dir), history.samples(self.run_dir)))

    @on(Found)
    def _show(self, event: Found) -> None:
        self.files = event.files
        heading = [printable(self.run_dir.name), plural(len(event.files), _("file"))]
        if event.samples.pictures:
            heading.append(plural(len(event.samples.pictures), _("sample")))
        heading.append(printable(self.run_dir.path))
        self.query_one("#heading", Lines).say(
            Content.assemble((heading[0], "bold"), *(f" · {part}" for part in heading[1:]))
        )
        table = self.query_one(DataTable)
        for cells in rows(event.files):
            table.add_row(*cells)
        self.query_one(Gallery).show(event.samples)
        self.query_one("#none", Lines).say(_("No LoRA is saved yet. On the run's screen, w saves one now."))
        self.query_one("#none", Lines).display = not event.files
        table.display = bool(event.files)
        if event.files:
            table.move_cursor(row=len(event.files) - 1)
            table.focus()
        else:
            self.query_one(Gallery).focus()
        self.refresh_bindings()
        self.refresh_status()

    @property
    def chosen(self) -> SavedFile | None:
        """The highlighted file."""
        row = self.query_one(DataTable).cursor_row
        return self.files[row] if self.files and 0 <= row < len(self.files) else None

    @on(DataTable.RowHighlighted)
    def _moved(self) -> None:
        file = self.chosen
        if file is not None:
            self.query_one(Gallery).choose(file.step)

    def say(self, sentence: str) -> None:
        """Put a sentence above the footer."""
        self.query_one("#message", Lines).say(sentence)

    def status_text(self) -> str:
        """The run and how many files it has."""
        return f"{printable(self.run_dir.name)}: {plural(len(self.files or []), _('file'))}"

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What needs a file is dim without one."""
        return None if action in ("copy", "train_on") and not self.files else True

    def action_open(self) -> None:
        """Open the folder where there is a desktop; else show and copy its path."""
        command = opener()
        if command is None:
            self._copy(self.run_dir.path)
            return
        try:
            subprocess.Popen(
                [command, str(self.run_dir.path)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self.say(_("{0} does not start: {1}.").format(command, error.strerror))
            return
        self.say(_("Opened {0}.").format(printable(self.run_dir.path)))

    def action_copy(self) -> None:
        """Copy the path of the chosen file."""
        if self.chosen is not None:
            self._copy(self.chosen.path)

    def _copy(self, path: Path) -> None:
        self.app.copy_to_clipboard(str(path))
        self.say(_("Copied, if the terminal allows it: {0}").format(printable(path)))

    def action_sheet(self) -> None:
        """Draw all samples into one picture."""
        self.say(_("Drawing …"))
        self._draw_sheet()

    @work(thread=True, exclusive=True, exit_on_error=False, group="sheet")
    def _draw_sheet(self) -> None:
        from engine.runs.contact import sheet_path, write_sheet

        history = RunHistory()
        history.feed(read_events(self.run_dir.events_path))
        self.post_message(self.Drawn(write_sheet(history.samples(self.run_dir), sheet_path(self.run_dir))))

    @on(Worker.StateChanged)
    def _not_drawn(self, event: Worker.StateChanged) -> None:
        """The base class shows why; nothing is drawn any more."""
        if event.worker.group == "sheet" and event.state is WorkerState.ERROR:
            self.say("")

    @on(Drawn)
    def _show_sheet(self, event: Drawn) -> None:
        if event.path is None:
            self.say(_("This run has no samples."))
        else:
            self.say(_("Contact sheet: {0}").format(printable(event.path)))

    def action_train_on(self) -> None:
        """Into the wizard, with the run's settings and the chosen file to begin with."""
        from engine.config import load_config
        from engine.dataset.trigger import kept_trigger

        file, draft = self.chosen, self.smith.draft
        if file is None:
            return
        try:
            config = load_config(self.run_dir.config_path)
        except (ValueError, OSError) as error:
            self.smith.show_error(error)
            return
        values: dict[str, Any] = {
            **kept_trigger(config),
            "network.network_weights": str(file.path),
            "saving.output_name": next_name(config.saving.output_name),
            "saving.output_dir": "",  # its own folder: the old run, and this file with it, stay where they are
        }
        if draft.in_the_making:
            self._ask_to_forget(values)
        else:
            self._begin(values)

    def _ask_to_forget(self, values: Mapping[str, Any]) -> None:
        from tui.screens.ask import AskScreen

        answers = {"no": _("Keep the run in the making"), "yes": _("Forget it and train on from this file")}
        screen = AskScreen(_("Another run is in the making"), answers)
        self.app.push_screen(screen, lambda answer: self._begin(values) if answer == "yes" else None)

    def _begin(self, values: Mapping[str, Any]) -> None:
        draft = self.smith.draft
        draft.begin_anew(values, preset=str(self.run_dir.config_path))
        draft.done = [step.name for step in STEPS[:-1]]
        self.smith.go_to("parameters")

    def action_back(self) -> None:
        """Back to the run."""
        self.dismiss()


def rows(files: Sequence[SavedFile]) -> list[tuple[Text, ...]]:
    """The table's cells."""
    losses = [file.held_out for file in files if file.held_out is not None]
    lowest = min(losses) if len(losses) > 1 else None
    return [
        (
            Text(printable(file.path.name)),
            Text(size_text(file.size)),
            Text("–" if file.epoch is None else str(file.epoch)),
            Text("–" if file.step is None else str(file.step)),
            Text("–" if file.held_out is None else f"{file.held_out:.4f}").append(
                " ● " + _("lowest") if lowest is not None and file.held_out == lowest else "", "bold"
            ),
        )
        for file in files
    ]


def opener(environment: Mapping[str, str] = os.environ) -> str | None:
    """The program that opens a folder; None where nobody sits before a desktop."""
    if sys.platform == "darwin":
        return None if "SSH_CONNECTION" in environment else "open"
    seen = environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    return shutil.which("xdg-open") if seen else None


def next_name(name: str) -> str:
    """ "robot-2" behind "robot", "robot-3" behind "robot-2"."""
    stem, dash, number = name.rpartition("-")
    return f"{stem}-{int(number) + 1}" if dash and stem and number.isdecimal() else f"{name}-2"
