"""What is done with a run of the list: resume, stop, delete, rename, note."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from textual import on, work
from textual.message import Message

from engine.errors import UsageError
from engine.runs.remarks import LONGEST_NOTE, LONGEST_TITLE
from engine.text import plural, printable, size_text
from tui.screens.ask import AskScreen
from tui.screens.ask_text import AskTextScreen
from tui.screens.base import BaseScreen
from tui.texts import _

if TYPE_CHECKING:
    from engine.runs import KnownRun, RunDir
    from engine.runs.remarks import Remarks
    from engine.runs.remove import Belongings


class RunActions(BaseScreen):
    """Base of the list of runs. Every action that loses something asks before."""

    runs: Mapping[str, KnownRun] | None = None
    """Path to run; None until the list was read."""

    class Counted(Message):
        """The files that deleting a run would remove were counted."""

        def __init__(self, run: KnownRun, counted: Belongings) -> None:
            super().__init__()
            self.run, self.counted = run, counted

    class Done(Message):
        """An action on a run has ended; with a sentence about it where the list does not show it."""

        def __init__(self, sentence: str, opened: KnownRun | None = None) -> None:
            super().__init__()
            self.sentence, self.opened = sentence, opened

    def chosen(self) -> KnownRun | None:
        """The highlighted run."""
        raise NotImplementedError

    def _look(self) -> object:
        """Read the list again."""
        raise NotImplementedError

    @staticmethod
    def _possible(action: str, run: KnownRun) -> bool:
        state = run.state
        if action == "stop":
            return state.live
        if action == "resume":
            return not state.live and state.state not in ("finished", "damaged")
        return state.state != "damaged" and (action != "delete" or not (state.live or state.state == "unknown"))

    def _ask(self, question: str, answers: dict[str, str], then: Callable[[], object], text: str = "") -> None:
        """Call `then` after the answer "yes"."""

        def answered(answer: str | None) -> None:
            if answer == "yes":
                then()

        self.app.push_screen(AskScreen(question, answers, text), answered)

    def action_resume(self) -> None:
        """Resume an ended run; ask where it may still be running elsewhere."""
        run = self.chosen()
        if run is None or not self._possible("resume", run):
            return
        if run.state.state != "unknown":
            self._resume(run)
            return
        answers = {"no": _("No, leave it"), "yes": _("Resume it here")}
        text = _("{0}. Running it on two machines would damage it.").format(run.state.detail.capitalize())
        question = _("Is {0} still running there?").format(printable(run.title))
        self._ask(question, answers, lambda: self._resume(run), text)

    def resume_accepted(self, run_dir: RunDir) -> None:
        """Resume the run that the question was about, where it is still listed."""
        run = (self.runs or {}).get(str(run_dir.path))
        if run is not None:
            self._resume(run, accept_changes=True)

    @work(thread=True, exclusive=True, exit_on_error=False, group="doing")
    def _resume(self, run: KnownRun, *, accept_changes: bool = False) -> None:
        from tui.shell.begin import resume

        resume(run.run_dir, accept_changes=accept_changes)
        self.post_message(self.Done(_("{0} continues.").format(printable(run.title)), opened=run))

    def action_stop(self) -> None:
        """Ask, then stop."""
        run = self.chosen()
        if run is None or not run.state.live:
            return
        answers = {"no": _("No, keep training"), "yes": _("Stop: finish the step, save everything, end")}
        self._ask(_("Stop {0}?").format(printable(run.title)), answers, lambda: self._stop(run))

    @work(thread=True, exclusive=True, exit_on_error=False, group="doing")
    def _stop(self, run: KnownRun) -> None:
        from engine.runs import request

        request(run.run_dir, "stop")
        sentence = _("{0} was asked to stop: it finishes its step and saves.")
        self.post_message(self.Done(sentence.format(printable(run.title))))

    def action_delete(self) -> None:
        """Count what would be deleted, then ask; of a run that has not ended, report why it is kept."""
        run = self.chosen()
        if run is None:
            return
        if run.state.live:
            self.answer(_("{0} has not ended: stop it with x before you delete it.").format(printable(run.title)))
        elif run.state.state == "unknown":
            words = _("{0} may still be training on another machine, so it cannot be deleted here.")
            self.answer(words.format(printable(run.title)))
        elif self._possible("delete", run):
            self._count(run)

    @work(thread=True, exclusive=True, exit_on_error=False, group="doing")
    def _count(self, run: KnownRun) -> None:
        from engine.runs.remove import belongings

        self.post_message(self.Counted(run, belongings(run.run_dir)))

    @on(Counted)
    def _ask_delete(self, event: Counted) -> None:
        run, counted = event.run, event.counted
        what = _("{0}, {1}").format(plural(counted.files, _("file")), size_text(counted.bytes))
        text = _("{0} in {1}: its LoRA files, samples, configuration and record. Images and captions stay.")
        answers = {"no": _("No, keep it"), "yes": _("Delete it permanently ({0})").format(what)}
        question = _("Delete {0}?").format(printable(run.title))
        self._ask(question, answers, lambda: self._delete(run), text.format(what, printable(run.run_dir.path)))

    @work(thread=True, exclusive=True, exit_on_error=False, group="doing")
    def _delete(self, run: KnownRun) -> None:
        from engine.runs.remove import remove_run

        removed = remove_run(run.run_dir)
        sentence = _("{0} is deleted: {1}, {2}.")
        name = printable(run.title)
        self.post_message(self.Done(sentence.format(name, plural(removed.files, _("file")), size_text(removed.bytes))))

    def action_rename(self) -> None:
        """Ask for the name that lists show."""
        run = self.chosen()
        if run is not None and self._possible("rename", run):
            text = _("Lists show it instead of {0}. Its files and its trigger keep their names; empty: {0} again.")
            self._ask_for_line(
                _("Rename {0}").format(printable(run.title)),
                text.format(printable(run.name)),
                run.remarks.title or run.name,
                LONGEST_TITLE,
                partial(self._require_free_title, run),
                lambda answer: self._remark(run, replace(run.remarks, title="" if answer == run.name else answer)),
            )

    def action_note(self) -> None:
        """Ask for the note."""
        run = self.chosen()
        if run is not None and self._possible("note", run):
            self._ask_for_line(
                _("Note about {0}").format(printable(run.title)),
                _("It is shown below the list, and the filter finds it."),
                run.remarks.note,
                LONGEST_NOTE,
                str,
                lambda answer: self._remark(run, replace(run.remarks, note=answer)),
            )

    def _require_free_title(self, run: KnownRun, title: str) -> None:
        """Refuse a name that stands for another run.

        Raises:
            UsageError: another run of the list has it.
        """
        if title in ("", run.name, run.title):
            return
        for other in (self.runs or {}).values():
            if other.run_dir != run.run_dir and title in (other.title, other.name):
                words = _("Another run has this name: {0}. Choose another one.")
                raise UsageError(words.format(printable(other.run_dir.path)), code="run-title-taken")

    def _ask_for_line(
        self,
        question: str,
        text: str,
        value: str,
        longest: int,
        check: Callable[[str], object],
        then: Callable[[str], object],
    ) -> None:
        """Call `then` with the answer, which may be empty, has at most `longest` characters and passes `check`."""

        def answered(answer: str | None) -> None:
            if answer is not None:
                then(answer)

        def require(answer: str) -> None:
            _require_length(answer, longest)
            check(answer)

        self.app.push_screen(AskTextScreen(question, text, require, value, may_be_empty=True), answered)

    @work(thread=True, exclusive=True, exit_on_error=False, group="doing")
    def _remark(self, run: KnownRun, remarks: Remarks) -> None:
        from engine.runs.remarks import write_remarks

        write_remarks(run.run_dir, remarks)
        self.post_message(self.Done(""))

    @on(Done)
    def _show_done(self, event: Done) -> None:
        if event.sentence:
            self.notify(event.sentence, markup=False)
        if event.opened is not None:
            self.smith.open_run(event.opened.run_dir)
        else:
            self._look()


def _require_length(text: str, longest: int) -> None:
    """Refuse a text that would be cut.

    Raises:
        UsageError: it has more than `longest` characters.
    """
    if len(text) > longest:
        raise UsageError(
            _("It has {0} characters; up to {1} are kept.").format(len(text), longest), code="remark-too-long"
        )
