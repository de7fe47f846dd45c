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
from tui.caption_book import Book
from tui.screens.ask import AskScreen
from tui.screens.captioner import CaptionerScreen, CaptioningScreen
from tui.texts import _
from tui.watching.captioner import JobLook, JobWatch

LOOK_SECONDS = 0.5


class CaptioningLine(Static):
    """Hidden while there is nothing to say. The process belongs to nobody: it outlives this line and the program."""

    DEFAULT_CSS = "CaptioningLine { height: auto; max-height: 2; display: none; }"

    @dataclass
    class Changed(Message):
        """It was looked at; `files` are the captions that were written meanwhile."""

        look: JobLook
        files: list[CaptionFile]

    @dataclass
    class Chosen(Message):
        """The captioner and the options with which a job is started."""

        captioner: str
        values: dict[str, Any]

    class SettingsWanted(Message):
        """Begin again, or go on with the rest."""

    @dataclass
    class Failed(Message):
        """It cannot be started or stopped."""

        error: LoraSmithError

    @dataclass
    class _Started(Message):
        """The process is on its way."""

        title: str

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self.look = JobLook()
        self._watch: JobWatch | None = None
        self._book: Callable[[], Book | None] = lambda: None

    def follow(self, job: CaptionJob, book: Callable[[], Book | None]) -> None:
        """Follow the job of a folder, as long as it lives.

        Args:
            book: gives the captions as they are known.
        """
        self._watch, self._book = JobWatch(job), book
        self._look(self._watch)

    def choose(self, folder: Path, last: str, options: Callable[[Kind], Mapping[str, Any]], about: str) -> None:
        """Ask for a captioner and its options, then start, and show how far it is.

        Args:
            last: the captioner where the cursor stands.
            options: gives those to begin with.
            about: what there is to caption, one sentence.
        """

        def answered(name: str | None) -> None:
            if name is not None:
                self._ask(folder, KINDS[name], options(KINDS[name]), about)

        names = sorted(KINDS, key=lambda name: name != last)
        answers = {name: f"{KINDS[name].title}: {_(KINDS[name].about)}" for name in names}
        self.app.push_screen(AskScreen(_("Who makes the captions?"), answers), answered)

    def _ask(self, folder: Path, kind: Kind, values: Mapping[str, Any], about: str) -> None:
        def answered(chosen: dict[str, Any] | None) -> None:
            if chosen is not None:
                self.post_message(self.Chosen(kind.name, chosen))
                self._start(folder, kind, chosen)

        self.app.push_screen(CaptionerScreen(kind, values, about), answered)

    def show_progress(self) -> None:
        """How far it is, in a dialog."""
        self.app.push_screen(CaptioningScreen(self.look), self._answered)

    def _answered(self, answer: str | None) -> None:
        if answer == "stop" and self._watch is not None:
            self._stop(self._watch.job)
        elif answer == "again":
            self.post_message(self.SettingsWanted())

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
            self.post_message(self.Failed(StorageError(f"{printable(watch.job.path)} cannot be read: {reason}.")))
            return
        places = [book.place_of(picture) for picture in look.written] if book is not None else []
        files = [book.files[place].reread() for place in places if book is not None and place is not None]
        self.post_message(self.Changed(look, files))

    @on(Changed)
    def _tell(self, event: Changed) -> None:
        """Say it here and in the dialog; an end that was there before one came is not worth a line."""
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
