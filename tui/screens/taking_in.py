"""Taking the images into the project when the step Folders is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from textual import on, work
from textual.message import Message
from textual.widgets import Static
from textual.worker import Worker, WorkerState

from engine.errors import LoraSmithError
from engine.runs.project import CreatedProject, Project, make
from engine.text import printable
from tui.screens.step import StepScreen
from tui.setup.folder_entries import Entries
from tui.texts import _
from tui.watching.progress import WorkerStopped


class TakingIn(StepScreen):
    """Base of the step Folders."""

    @dataclass
    class ImagesTakenIn(Message):
        """Taking the images in has ended; None: stopped."""

        entries: Entries
        result: CreatedProject | LoraSmithError | None

    def __init__(self) -> None:
        super().__init__()
        self._taking: Worker[None] | None = None
        self._accepted_others = 0

    @property
    def entries(self) -> Entries:
        """The fields as they are now."""
        raise NotImplementedError

    @property
    def configured(self) -> str:
        """The dataset configuration that names the images; empty where a folder is named."""
        raise NotImplementedError

    def repeats(self, entries: Entries) -> int | None:
        """The computed repeats; None where none are."""
        raise NotImplementedError

    def _progress(self, what: str) -> Callable[[int, int], None]:
        """A function that shows the progress."""
        raise NotImplementedError

    def leave(self) -> None:
        """Take the images in, then leave the step. Those of a dataset configuration stay where they are."""
        if self.configured:
            super().leave()
            return
        self.draft.done.remove(self.STEP)
        if self._taking is not None:
            return
        entries = self.entries
        project = entries.project(str(self.draft.get("dataset.caption_extension")), self.repeats(entries))
        self.set_message(_("Importing the images. Escape stops."))
        self._taking = self._take(project, entries, entries.earlier(self.draft))

    @work(thread=True, exclusive=True, exit_on_error=False, group="take")
    def _take(self, project: Project, entries: Entries, earlier: Path | None) -> None:
        try:
            progress = self._progress("take")
            result: CreatedProject | LoraSmithError | None = make(project, earlier=earlier, progress=progress)
        except WorkerStopped:
            result = None
        except LoraSmithError as error:
            result = error
        self.post_message(self.ImagesTakenIn(entries, result))

    @on(ImagesTakenIn)
    def _finish_take(self, event: ImagesTakenIn) -> None:
        self._taking = None
        if event.result is None:
            self.set_message(_("Stopped. Next continues with the rest."), kind="warning")
        elif isinstance(event.result, LoraSmithError):
            self.set_message(event.result.message, kind="error")
            self.smith.show_error(event.result)
        else:
            event.entries.record(self.draft, event.result)
            if self.entries == event.entries:
                self._leave_with(event.result)
            else:
                self.store()
                self.set_message(_("Fields have changed. Press Next again."), kind="warning")

    def _leave_with(self, result: CreatedProject) -> None:
        """Leave the step; where the project has images of another source, only on the second try."""
        if result.others > self._accepted_others:
            self._accepted_others = result.others
            self.query_one("#plan", Static).update("\n".join(f"! {line}" for line in result.lines()))
            self.set_message(_("Other images are there. Next uses them too."), kind="warning")
            return
        for line in result.lines():
            self.notify(printable(line), severity="warning", markup=False)
        self.draft.done.append(self.STEP)
        super().leave()

    @on(Worker.StateChanged)
    def _failed(self, event: Worker.StateChanged) -> None:
        """The base class shows the error of a worker; the step stays usable."""
        if event.worker is self._taking and event.state is WorkerState.ERROR:
            self._taking = None

    def action_back(self) -> None:
        """One step back; while images are taken in, stop that instead."""
        if self._taking is not None:
            self._taking.cancel()
        else:
            super().action_back()
