"""One line about the captioning process of a folder, which it starts, stops and follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textual import on, work
from textual.message import Message
from textual.widgets import Static

from engine.captioning.captioner import KINDS, Kind
from engine.captioning.job import CaptionJob, start, stop
from engine.dataset.caption_files import CaptionFile
from engine.errors import LoraSmithError, StorageError
from engine.text import printable
from tui.screens.ask import AskScreen
from tui.screens.captioner import CaptionerScreen, CaptioningScreen
from tui.setup.caption_book import Book
from tui.texts import _
from tui.watching.captioner import JobLook, JobWatch

LOOK_SECONDS = 0.5


class CaptioningLine(Static):
    """Hidden while there is no job. The process is independent: it outlives this line and the program."""

    DEFAULT_CSS = "CaptioningLine { height: auto; max-height: 2; display: none; }"

    @dataclass
    class Changed(Message):
        """The job was read; `files` are the captions that were written since the last time."""

        look: JobLook
        files: list[CaptionFile]

    @dataclass
    class Chosen(Message):
        """The captioner and the options with which a job is started."""

        captioner: str
        values: dict[str, Any]

    class SettingsRequested(Message):
        """Start over, or continue with the rest."""

    @dataclass
    class Failed(Message):
        """It cannot be started or stopped."""

        error: LoraSmithError

    @dataclass
    class _Started(Message):
        """The process was launched."""

        title: str

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self.look = JobLook()
        self._watch: JobWatch | None = None
        self._book: Callable[[], Book | None] = lambda: None

    def follow(self, job: CaptionJob, book: Callable[[], Book | None]) -> None:
        """Follow the job of a folder, as long as it is live.

        Args:
            book: returns the current captions; None before they are read.
        """
        self._watch, self._book = JobWatch(job), book
        self._look(self._watch)

    def choose(self, folder: Path, last: str, options: Callable[[Kind], Mapping[str, Any]], about: str) -> None:
        """Ask for a captioner and its options, then start it and show its progress.

        Args:
            last: the captioner that the cursor is on.
            options: returns the initial options of a captioner.
            about: what there is to caption, one sentence.
        """

        def answered(name: str | None) -> None:
            if name is not None:
                self._ask_options(folder, KINDS[name], options(KINDS[name]), about)

        names = sorted(KINDS, key=lambda name: name != last)
        answers = {name: f"{KINDS[name].title}: {_(KINDS[name].about)}" for name in names}
        self.app.push_screen(AskScreen(_("Which captioner?"), answers), answered)

    def _ask_options(self, folder: Path, kind: Kind, values: Mapping[str, Any], about: str) -> None:
        def answered(options: dict[str, Any] | None) -> None:
            if options is not None:
                self.post_message(self.Chosen(kind.name, options))
                self._start(folder, kind, options)

        self.app.push_screen(CaptionerScreen(kind, values, about), answered)

    def show_progress(self) -> None:
        """Show the progress in a dialog."""
        self.app.push_screen(CaptioningScreen(self.look), self._answered)

    def _answered(self, answer: str | None) -> None:
        if answer == "stop" and self._watch is not None:
            self._stop(self._watch.job)
        elif answer == "settings":
            self.post_message(self.SettingsRequested())

    @work(thread=True, exclusive=True, exit_on_error=False, group="start")
    def _start(self, folder: Path, kind: Kind, values: Mapping[str, Any]) -> None:
        try:
            start(folder, kind.name, values)
        except LoraSmithError as error:
            self.post_message(self.Failed(error))
        else:
            self.post_message(self._Started(kind.title))

    @work(thread=True, exclusive=True, exit_on_error=False, group="start")
    def _stop(self, job: CaptionJob) -> None:
        try:
            stop(job)
        except LoraSmithError as error:
            self.post_message(self.Failed(error))

    @on(_Started)
    def _show_start(self, event: _Started) -> None:
        event.stop()
        self.look = JobLook("starting", event.title)
        self.show_progress()
        if self._watch is not None:
            self._look(self._watch)

    @work(thread=True, exit_on_error=False, group="look")
    def _look(self, watch: JobWatch) -> None:
        try:
            look, book = watch.look(), self._book()
        except OSError as error:
            reason = error.strerror or str(error)
            self.post_message(
                self.Failed(
                    StorageError(f"{printable(watch.job.path)} cannot be read: {reason}.", code="job-unreadable")
                )
            )
            return
        places = [book.place_of(image) for image in look.written] if book is not None else []
        files = [book.files[place].reread() for place in places if book is not None and place is not None]
        self.post_message(self.Changed(look, files))

    @on(Changed)
    def _show_change(self, event: Changed) -> None:
        """Show it here and in the dialog; a job that was finished before the step was opened is not shown."""
        old = not self.look.state and event.look.state == "finished"
        self.look = event.look
        words = "" if old else event.look.sentence()
        self.display = bool(words)
        undo = _("u undoes it.") if event.look.history.written and not event.look.live else ""
        self.update(" ".join(filter(None, (words, _("c shows more."), undo))))
        if isinstance(self.app.screen, CaptioningScreen):
            self.app.screen.show(event.look)
        if event.look.live and self._watch is not None:
            watch = self._watch
            self.set_timer(LOOK_SECONDS, lambda: self._look(watch))
