"""Changes of captions, of one or of all, and undoing them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from textual import on, work
from textual.message import Message

from engine.captioning.job import undo
from engine.dataset.caption_edits import Change, EditResult, apply, plan_frame
from engine.dataset.caption_files import tag_counts
from engine.dataset.caption_journal import UndoResult
from engine.errors import LoraSmithError
from engine.text import listing, plural, printable
from tui.screens.caption_edits import FrameScreen, ReplaceScreen
from tui.screens.caption_tags import TagsScreen
from tui.screens.step import StepScreen
from tui.setup.caption_book import Book, Rules
from tui.texts import _
from tui.widgets.caption_list import CaptionList
from tui.widgets.captioning import CaptioningLine

CaptionEdit = tuple[Path, str | None, str] | None
"""A change of an image's caption, before (None: it had no file) and after; None: of many at once."""


class CaptionChanges(StepScreen):
    """Base of the step Captions. Changes of many captions are recorded in a journal, single ones here."""

    rules: Rules

    @dataclass
    class Done(Message):
        """An edit of many captions, or undoing it, has ended."""

        words: str
        result: EditResult | UndoResult | LoraSmithError

    def __init__(self) -> None:
        super().__init__()
        self.book: Book | None = None
        self._edits: list[CaptionEdit] = []
        """The newest last; the program's own list of the folder, so that it outlives the screen."""
        self._busy = False
        """Many captions are being changed."""

    def _save(self) -> bool:
        """Write what was edited; False where that fails."""
        raise NotImplementedError

    def _show(self, place: int) -> None:
        """Image and caption of another image."""
        raise NotImplementedError

    def _show_summary(self) -> None:
        """Update coverage and notes."""
        raise NotImplementedError

    def _read(self, rules: Rules) -> object:
        """Read all captions again."""
        raise NotImplementedError

    def _progress(self, words: str) -> Callable[[int, int], None]:
        """A function that shows the progress."""
        raise NotImplementedError

    def action_replace(self) -> None:
        """Find and replace."""
        if self.book is not None and self._save():
            self.app.push_screen(ReplaceScreen(self.book.files), self._change)

    def action_frame(self) -> None:
        """Prefix and suffix."""
        if self.book is not None and self._save():
            self.app.push_screen(FrameScreen(self.book.files), self._change)

    def action_tags(self) -> None:
        """Count tags."""
        if self.book is not None and self._save():
            counts = tag_counts(self.book.files, self.rules.separator)
            captions = sum(bool(file.text) for file in self.book.files)
            self.app.push_screen(TagsScreen(counts, captions, self.rules.separator))

    def _change(self, changes: list[Change] | None) -> None:
        if changes:
            self._edits.append(None)
            self._busy = True
            self.refresh_bindings()
            self._make(changes, self.rules)

    def action_add_trigger(self) -> None:
        """Put the trigger word before every caption that lacks it."""
        if self.book is None or not self._save():
            return
        lacking = [file for file in self.book.files if self.book.lacks_trigger(file)]
        with_commas = sum("," in (file.text or "") for file in lacking) * 2 > len(lacking)
        changes = plan_frame(lacking, f"{self.rules.trigger}," if with_commas else self.rules.trigger)
        if changes:
            self._change(changes)
            return
        if without := self.book.coverage.without:
            words = (
                _("{0} has no caption; w adds the word only to captions that are there.")
                if without == 1
                else _("{0} have no caption; w adds the word only to captions that are there.")
            )
            self.answer(words.format(plural(without, _("image"))))
        else:
            self.answer(_("✓ Every caption has the trigger word."))

    def action_undo(self) -> None:
        """Undo the last edit, of one caption or of many."""
        if not self._save() or self.book is None:
            return
        edit = self._edits.pop() if self._edits else None
        if edit is not None:
            self._undo_single(*edit)
            return
        self._busy = True
        self.refresh_bindings()
        self._undo(self.rules)

    def _undo_single(self, image: Path, before: str | None, after: str) -> None:
        """Write the caption that an image had before, or delete its file; not where it was changed elsewhere since."""
        assert self.book is not None
        place, name = self.book.place_of(image), printable(image.name)
        changed_since = _("{0}: changed elsewhere since, and not touched.").format(name)
        if place is None:
            self.answer(changed_since)
            return
        now = self.book.files[place].reread()
        if (now.text or "") != after:
            self.book.replace([now])
            self._show_changed(place, changed_since)
            return
        try:
            if before is None:
                self.book.remove(place)
            else:
                self.book.write(place, before)
        except LoraSmithError as error:
            self.smith.show_error(error)
            return
        words = _("{0}: the caption as before.") if before is not None else _("{0}: no caption, as before.")
        self._show_changed(place, words.format(name))

    def _show_changed(self, place: int, sentence: str) -> None:
        """Show the image whose caption is another one now, and what has happened."""
        self._show(place)
        self.query_one(CaptionList).position = place
        self.query_one(CaptionList).refresh()
        self._show_summary()
        self.answer(sentence)

    @work(thread=True, exclusive=True, exit_on_error=False, group="edit")
    def _make(self, changes: list[Change], rules: Rules) -> None:
        progress = self._progress(_("Changing the captions: {0} of {1}"))
        self._finish(_("{0} changed. u undoes it."), lambda: apply(changes, rules.job.journal, _("edit"), progress))

    @work(thread=True, exclusive=True, exit_on_error=False, group="edit")
    def _undo(self, rules: Rules) -> None:
        progress = self._progress(_("Undoing: {0} of {1}"))
        self._finish(_("{0} as before."), lambda: undo(rules.job, progress))

    def _finish(self, words: str, edit: Callable[[], EditResult | UndoResult]) -> None:
        """Run `edit` in the thread, and post its result."""
        try:
            result: EditResult | UndoResult | LoraSmithError = edit()
        except LoraSmithError as error:
            result = error
        self.post_message(self.Done(words, result))

    @on(Done)
    def _done(self, event: Done) -> None:
        if isinstance(event.result, LoraSmithError):
            self.smith.show_error(event.result)
            self.set_message(event.result.message, kind="error")
        else:
            if isinstance(event.result, UndoResult):
                self.query_one(CaptioningLine).display = False  # its captions were undone
            sentence = event.words.format(plural(event.result.changed, _("caption")))
            if names := [printable(path.name) for path in event.result.skipped]:
                words = _("{0} Changed since and not touched: {1}.")
                self.set_message(words.format(sentence, listing(names, 3)), kind="warning")
            else:
                self.answer(sentence)
        self._read(self.rules)
