"""What is done with a run of the list: resume, stop, delete."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from textual import on, work
from textual.message import Message

from engine.text import plural, printable, size_text
from tui.screens.ask import AskScreen
from tui.screens.base import BaseScreen
from tui.texts import _

if TYPE_CHECKING:
    from engine.runs import KnownRun, RunDir
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
        """An action on a run has ended; with a sentence about it."""

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
        question = _("Is {0} still running there?").format(printable(run.name))
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
        self.post_message(self.Done(_("{0} continues.").format(printable(run.name)), opened=run))

    def action_stop(self) -> None:
        """Ask, then stop."""
        run = self.chosen()
        if run is None or not run.state.live:
            return
        answers = {"no": _("No, keep training"), "yes": _("Stop: finish the step, save everything, end")}
        self._ask(_("Stop {0}?").format(printable(run.name)), answers, lambda: self._stop(run))

    @work(thread=True, exclusive=True, exit_on_error=False, group="doing")
    def _stop(self, run: KnownRun) -> None:
        from engine.runs import request

        request(run.run_dir, "stop")
        sentence = _("{0} was asked to stop: it finishes its step and saves.")
        self.post_message(self.Done(sentence.format(printable(run.name))))

    def action_delete(self) -> None:
        """Count what would be deleted, then ask."""
        run = self.chosen()
        if run is not None and self._possible("delete", run):
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
        question = _("Delete {0}?").format(printable(run.name))
        self._ask(question, answers, lambda: self._delete(run), text.format(what, printable(run.run_dir.path)))

    @work(thread=True, exclusive=True, exit_on_error=False, group="doing")
    def _delete(self, run: KnownRun) -> None:
        from engine.runs.remove import remove_run

        removed = remove_run(run.run_dir)
        sentence = _("{0} is deleted: {1}, {2}.")
        name = printable(run.name)
        self.post_message(self.Done(sentence.format(name, plural(removed.files, _("file")), size_text(removed.bytes))))

    @on(Done)
    def _show_done(self, event: Done) -> None:
        self.notify(event.sentence, markup=False)
        if event.opened is not None:
            self.smith.open_run(event.opened.run_dir)
        else:
            self._look()
