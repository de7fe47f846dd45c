"""What is done with a file of a run's results: use it, mark it, try it, train on from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from textual import on, work
from textual.message import Message

from engine.errors import LoraSmithError
from engine.paths import expanded
from engine.results.record import RunRecord
from engine.results.verdict import JudgedFile
from engine.runs import RunDir, is_locked
from engine.runs.history import SavedFile
from engine.runs.remarks import Remarks, read_remarks, write_remarks
from engine.text import plural, printable
from tui.screens.base import BaseScreen
from tui.screens.from_file import begin_from_file
from tui.screens.steps import STEPS
from tui.setup.names import free_name
from tui.setup.recent import models_folder, record_models_folder
from tui.texts import _
from tui.widgets.file_table import FileTable

OF_A_FILE = ("copy", "favourite", "train_on", "try_out", "use", "what_now")
"""Actions that need a file."""


class FileActions(BaseScreen):
    """Base of the results. A file of the run itself is never changed."""

    @dataclass
    class Remarked(Message):
        """The favourites were written."""

        remarks: Remarks

    def __init__(self, run_dir: RunDir) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.record: RunRecord | None = None
        """None until the run was read."""

    def set_message(self, sentence: str) -> None:
        """Put a sentence above the footer."""
        raise NotImplementedError

    def _find(self) -> object:
        """Read the run again."""
        raise NotImplementedError

    @property
    def files(self) -> tuple[JudgedFile, ...]:
        """The files with their verdicts; empty until the run was read."""
        return self.record.assessment.files if self.record else ()

    @property
    def judged(self) -> JudgedFile | None:
        """The highlighted file with its verdict."""
        key = self.query_one(FileTable).chosen_key
        return next((judged for judged in self.files if str(judged.file.path) == key), None)

    @property
    def chosen(self) -> SavedFile | None:
        """The highlighted file."""
        return self.judged.file if self.judged is not None else None

    def action_copy(self) -> None:
        """Copy the path of the chosen file."""
        if self.chosen is not None:
            self.copy(str(self.chosen.path))

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

    def action_favourite(self) -> None:
        """Mark the chosen file, or unmark it."""
        if self.chosen is not None:
            self._toggle(self.chosen.path.name)

    @work(thread=True, exit_on_error=False, group="favourite")
    def _toggle(self, name: str) -> None:
        remarks = read_remarks(self.run_dir).toggled(name)
        write_remarks(self.run_dir, remarks)
        self.post_message(self.Remarked(remarks))

    @on(Remarked)
    def _show_favourites(self, event: Remarked) -> None:
        if self.record is not None:
            self.record = replace(self.record, remarks=event.remarks)
            self.query_one(FileTable).show_files(self.files, self.record.assessment.best, event.remarks.favourites)

    def action_use(self) -> None:
        """Ask for a models folder, and copy the chosen file into it."""
        from engine.results.use_file import place_in, require_folder
        from tui.screens.ask_text import AskTextScreen
        from tui.widgets.path_input import PathInput

        judged, record = self.judged, self.record
        if judged is None or record is None:
            return
        text = _(
            "{0} is copied there as {1}.safetensors, with its trigger and a sample in its metadata. For another name, "
            "add it to the folder: …/name.safetensors."
        ).format(printable(judged.file.path.name), printable(record.name))
        title = _("Use this one: in which models folder?")
        check = lambda folder: require_folder(place_in(record, expanded(folder)).parent)  # noqa: E731
        field = PathInput(models_folder(), folders_only=True, compact=True)
        self.app.push_screen(AskTextScreen(title, text, check, path=field), self._use)

    def _use(self, target: str | None, *, overwrite: bool = False) -> None:
        if target is None or self.judged is None or self.record is None:
            return
        from engine.results.use_file import place_in, use

        if not overwrite and place_in(self.record, expanded(target)).exists():
            self._ask_to_replace(target)
            return
        try:
            place = use(self.record, self.judged, expanded(target), overwrite=overwrite)
        except LoraSmithError as error:
            self.smith.show_error(error)
            return
        notice = record_models_folder(str(place.parent))
        self.set_message(" ".join(filter(None, [_("Ready for use: {0}").format(printable(place)), notice])))
        if self.others and not is_locked(self.run_dir.lock_path):
            self._ask_to_put_away()

    @property
    def others(self) -> list[Path]:
        """The files that are neither chosen nor favourites."""
        others = (judged.file.path for judged in self.files if judged is not self.judged)
        return [path for path in others if self.record is None or path.name not in self.record.remarks.favourites]

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

    def _ask_to_replace(self, target: str) -> None:
        from tui.screens.ask import AskScreen

        answers = {"no": _("Keep the existing file"), "yes": _("Replace it")}
        screen = AskScreen(_("A file of that name exists already"), answers)
        self.app.push_screen(screen, lambda answer: self._use(target, overwrite=True) if answer == "yes" else None)

    def action_try_out(self) -> None:
        """Generate images with the chosen file."""
        from tui.screens.try_out import TryOutScreen

        if self.chosen is not None:
            self.app.push_screen(TryOutScreen(self.run_dir.path / self.chosen.path.name, self.run_dir.path / "try"))

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
        question = _("You have an unfinished setup: {0}").format(self.smith.draft.title)
        screen = AskScreen(question, answers)
        self.app.push_screen(screen, lambda answer: self._begin(values) if answer == "yes" else None)

    def _begin(self, values: Mapping[str, Any]) -> None:
        draft = self.smith.draft
        draft.start_over(values, preset=str(self.run_dir.config_path))
        draft.done = [step.name for step in STEPS[:-1]]
        begin_from_file(draft, Path(values["network.network_weights"]))
        self.smith.go_to("parameters")


def opener(environment: Mapping[str, str] = os.environ) -> str | None:
    """The program that opens a folder; None where there is no desktop."""
    if sys.platform == "darwin":
        return None if "SSH_CONNECTION" in environment else "open"
    display = environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    return shutil.which("xdg-open") if display else None
