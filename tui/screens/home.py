"""The home screen: all runs with their true state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Static

from engine.text import listing, plural, printable, size_text
from tui.preset_file import kohya_notes, own_trigger, read_file
from tui.screens.ask import AskScreen
from tui.screens.ask_text import AskTextScreen
from tui.screens.base import BaseScreen
from tui.screens.steps import STEPS, position
from tui.texts import _
from tui.words.rows import about, progress, sign

if TYPE_CHECKING:
    from engine.runs import KnownRun, RunDir
    from engine.runs.remove import Belongings
    from tui.widgets.run_table import RunTable

SECONDS = 2.0
"""Between two looks, while the screen is shown."""


class HomeScreen(BaseScreen):
    """Lists the runs, the newest first, and says what can be done with the highlighted one.

    Its home.tcss is read by the app, whose lowest screen it is.
    """

    TITLE = "LoRA Smith"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", _("New run"), tooltip=_("The wizard: begin a run, or go on with the one in the making.")),
        Binding(
            "f", "file", _("File"), tooltip=_("Begin from a preset file, or from one of Kohya's: TOML, JSON, train.sh.")
        ),
        Binding("r", "resume", _("Resume"), tooltip=_("Go on from the last saved state.")),
        Binding("x", "stop", _("Stop"), tooltip=_("Finish the step, save everything, end.")),
        Binding("c", "copy", _("Copy"), tooltip=_("A new run with the settings of this one.")),
        Binding("d,delete", "delete", _("Delete"), tooltip=_("Remove what the run has written; asks before.")),
    ]
    HELP = _("""
## Runs

All trainings of yours, and those below the working directory. What is shown is true at this moment: a run that is
called running has a living process.

* **lost**: its process ended without a word (killed, power cut). Resume goes on from the last saved state.
* **unknown**: it was last written on another machine. Resume goes on with it here.
* **failed**, **stopped**: open it to see why; resume goes on.
""")

    class Found(Message):
        """The runs were looked for."""

        def __init__(self, runs: list[KnownRun]) -> None:
            super().__init__()
            self.runs = runs

    class Described(Message):
        """What there is to say about a run."""

        def __init__(self, run: KnownRun, text: Text) -> None:
            super().__init__()
            self.run, self.text = run, text

    class Counted(Message):
        """What deleting a run would remove."""

        def __init__(self, run: KnownRun, counted: Belongings) -> None:
            super().__init__()
            self.run, self.counted = run, counted

    class Done(Message):
        """Something was done with a run; a sentence about it."""

        def __init__(self, sentence: str, opened: KnownRun | None = None) -> None:
            super().__init__()
            self.sentence, self.opened = sentence, opened

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, KnownRun] | None = None
        """Path to run, the newest first; None until they were looked for."""
        self.table: RunTable | None = None
        self._timer: Timer | None = None

    def compose_content(self) -> ComposeResult:
        """What stands here before the runs were looked for: quick to draw."""
        yield Static(_("LoRA Smith · runs"), id="heading", classes="title")
        yield Static(id="empty")
        yield Static(id="draft", classes="hint", markup=False)

    def on_screen_resume(self) -> None:
        """Shown: look now, and then every two seconds."""
        self._say_draft()
        self.call_after_refresh(self._begin_to_look)

    def _begin_to_look(self) -> None:
        if self.is_active:  # attach has covered it by now
            self._look()

    def on_screen_suspend(self) -> None:
        """Another screen is shown: nothing to look for."""
        if self._timer is not None:
            self._timer.stop()

    @work(thread=True, exclusive=True, exit_on_error=False, group="runs")
    def _look(self) -> None:
        from engine.runs import find_runs  # here and below: after the first paint

        self.post_message(self.Found(find_runs([Path.cwd()])))

    @on(Found)
    async def _show(self, event: Found) -> None:
        if not self.is_attached:  # the app ends
            return
        before, chosen = self.runs, self.chosen()
        self.runs = {str(run.run_dir.path): run for run in event.runs}
        if before is None or bool(before) != bool(self.runs):
            await self._arrange()
        if self.table is not None:
            self.table.show_runs(self.runs)
        now = self.chosen()
        if now != chosen:
            self._describe()
        if (now and now.state.state) != (chosen and chosen.state.state):
            self.refresh_bindings()
        self.refresh_status()
        if self.is_active:
            self._timer = self.set_timer(SECONDS, self._look)

    async def _arrange(self) -> None:
        """The table and what there is to say about a run; without a run what to press."""
        from tui.widgets.run_table import RunTable

        await self.query("#empty, RunTable, #details").remove()
        self.table = RunTable() if self.runs else None
        if self.table is None:
            await self.mount(Static(_(WELCOME), id="empty"), before="#draft")
        else:
            about = VerticalScroll(Static(id="about"), id="details", can_focus=False)
            await self.mount(self.table, about, before="#draft")
            self.table.focus()

    def _say_draft(self) -> None:
        self.query_one("#draft", Static).update(self._draft_sentence())

    def _draft_sentence(self) -> str:
        """What `n` does."""
        draft = self.smith.draft
        if not (draft.values or draft.done):
            return _("n begins a new run.")
        if not draft.in_the_making:
            return _("n begins a new run, with the settings of the last one or without.")
        name = printable(str(draft.get("saving.output_name") or _("without a name yet")))
        step = STEPS[position(draft.step)].title
        return _("n goes on with {0} at step {1}, or begins another one.").format(name, step)

    def chosen(self) -> KnownRun | None:
        """The highlighted run."""
        return self.table.chosen if self.table is not None else None

    def on_data_table_row_highlighted(self) -> None:
        """Another run is highlighted."""
        self._describe()
        self.refresh_bindings()

    def on_data_table_row_selected(self) -> None:
        """Enter: the dashboard of the run, live or ended."""
        run = self.chosen()
        if run is not None:
            self.smith.open_run(run.run_dir)

    def _describe(self) -> None:
        run = self.chosen()
        if run is not None:
            self._find_out(run)

    @work(thread=True, exclusive=True, exit_on_error=False, group="details")
    def _find_out(self, run: KnownRun) -> None:
        self.post_message(self.Described(run, about(run)))

    @on(Described)
    def _show_details(self, event: Described) -> None:
        if event.run == self.chosen():
            self.query_one("#about", Static).update(event.text)

    def status_text(self) -> str:
        """The run that goes on, or how many there are."""
        runs = list((self.runs or {}).values())
        live = [run for run in runs if run.state.live]
        lines = [
            f"{printable(run.name)}: {sign(run.state.state)}, {progress(run.state.step, run.state.max_train_steps)}"
            for run in live
        ]
        return "\n".join(lines or [plural(len(runs), _("run"))])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done with the highlighted run; the rest is shown dim."""
        if action in ("copy", "delete", "resume", "stop"):
            run = self.chosen()
            if run is None:
                return False
            return True if self._possible(action, run) else None
        return True

    @staticmethod
    def _possible(action: str, run: KnownRun) -> bool:
        state = run.state
        if action == "stop":
            return state.live
        if action == "resume":
            return not state.live and state.state not in ("finished", "damaged")
        return state.state != "damaged" and (action != "delete" or not (state.live or state.state == "unknown"))

    def action_new(self) -> None:
        """The wizard; with a run in the making, a choice."""
        draft = self.smith.draft
        if not (draft.values or draft.done):
            self.smith.go_to(draft.step)
            return
        name = printable(str(draft.get("saving.output_name") or _("without a name yet")))
        if draft.in_the_making:
            step = STEPS[position(draft.step)].title
            answers = {"on": _("Go on at step {0}").format(step), "anew": _("Begin anew and forget it")}
            question = _("A run is in the making: {0}").format(name)
        else:
            answers = {"on": _("With the settings of {0}").format(name), "anew": _("Begin anew")}
            question = _("A new run")
        self.app.push_screen(AskScreen(question, answers), self._begin)

    def _begin(self, answer: str | None) -> None:
        if answer == "anew":
            self.smith.draft.begin_anew()
        if answer is not None:
            self.smith.go_to(self.smith.draft.step)

    def _ask(self, question: str, answers: dict[str, str], then: Callable[[], object], text: str = "") -> None:
        """Do it after "yes"."""

        def answered(answer: str | None) -> None:
            if answer == "yes":
                then()

        self.app.push_screen(AskScreen(question, answers, text), answered)

    def action_file(self) -> None:
        """A new run with the settings of a file."""
        text = _("A preset, or a training TOML, GUI configuration or train.sh of Kohya's.")
        if self.smith.draft.values or self.smith.draft.done:
            text += " " + _("It replaces the run in the making.")
        self.app.push_screen(AskTextScreen(_("Begin from a file"), text, read_file), self._begin_from)

    def _begin_from(self, answer: str | None) -> None:
        if answer is None:
            return
        draft, path = self.smith.draft, read_file(answer)
        draft.begin_anew(own_trigger(path), preset=str(path))
        notes = kohya_notes(path)
        if notes:
            told = _("{0} of Kohya's keys mean something else or nothing here: {1}; lorasmith convert shows all.")
            draft.note(told.format(len(notes), listing([note.split(" = ")[0] for note in notes], 6)))
        if (place := draft.get("saving.output_dir")) and draft.get("dataset.train_data_dir"):
            told = _("The file's output_dir {0} is not used here: the step Folders says the place.")
            draft.note(told.format(printable(place)))
        self.smith.go_to("model")

    def action_copy(self) -> None:
        """A new run with the settings of the highlighted one; its place is chosen anew."""
        run, draft = self.chosen(), self.smith.draft
        if run is None:
            return
        if draft.in_the_making:
            answers = {"no": _("Keep the run in the making"), "yes": _("Forget it and copy the settings")}
            self._ask(_("Another run is in the making"), answers, lambda: self._copy(run))
        else:
            self._copy(run)

    def _copy(self, run: KnownRun) -> None:
        from engine.config import load_config
        from engine.dataset.trigger import kept_trigger

        try:
            kept = kept_trigger(load_config(run.run_dir.config_path))
        except (ValueError, OSError) as error:
            self.smith.show_error(error)
            return
        draft = self.smith.draft
        draft.begin_anew({"saving.output_dir": "", **kept}, preset=str(run.run_dir.config_path))
        draft.done = [step.name for step in STEPS[:-1]]
        self.smith.go_to("folders")

    def action_resume(self) -> None:
        """Go on with an ended run; where it may still go on elsewhere, ask."""
        run = self.chosen()
        if run is None or not self._possible("resume", run):
            return
        if run.state.state != "unknown":
            self._resume(run)
            return
        answers = {"no": _("No, leave it"), "yes": _("Resume it here")}
        text = _("{0}. Two machines on one run would spoil it.").format(run.state.detail.capitalize())
        question = _("Does {0} still go on there?").format(printable(run.name))
        self._ask(question, answers, lambda: self._resume(run), text)

    def resume_accepted(self, run_dir: RunDir) -> None:
        """Resume the run that the question was about, where it is still listed."""
        run = (self.runs or {}).get(str(run_dir.path))
        if run is not None:
            self._resume(run, accept_changes=True)

    @work(thread=True, exclusive=True, exit_on_error=False, group="doing")
    def _resume(self, run: KnownRun, *, accept_changes: bool = False) -> None:
        from tui.begin import begin_again

        begin_again(run.run_dir, accept_changes=accept_changes)
        self.post_message(self.Done(_("{0} goes on.").format(printable(run.name)), opened=run))

    def action_stop(self) -> None:
        """Ask, then wish."""
        run = self.chosen()
        if run is None or not run.state.live:
            return
        answers = {"no": _("No, let it train"), "yes": _("Stop: finish the step, save everything, end")}
        self._ask(_("Stop {0}?").format(printable(run.name)), answers, lambda: self._stop(run))

    @work(thread=True, exclusive=True, exit_on_error=False, group="doing")
    def _stop(self, run: KnownRun) -> None:
        from engine.runs import request

        request(run.run_dir, "stop")
        sentence = _("{0} was asked to stop: it finishes its step and saves.")
        self.post_message(self.Done(sentence.format(printable(run.name))))

    def action_delete(self) -> None:
        """Count what would go, then ask."""
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
        text = _("{0} in {1}: its LoRA files, samples, configuration and record. Pictures and captions stay.")
        answers = {"no": _("No, keep it"), "yes": _("Delete it for good ({0})").format(what)}
        question = _("Delete {0}?").format(printable(run.name))
        self._ask(question, answers, lambda: self._delete(run), text.format(what, printable(run.run_dir.path)))

    @work(thread=True, exclusive=True, exit_on_error=False, group="doing")
    def _delete(self, run: KnownRun) -> None:
        from engine.runs.remove import remove_run

        gone = remove_run(run.run_dir)
        sentence = _("{0} is deleted: {1}, {2}.")
        name = printable(run.name)
        self.post_message(self.Done(sentence.format(name, plural(gone.files, _("file")), size_text(gone.bytes))))

    @on(Done)
    def _say_done(self, event: Done) -> None:
        self.notify(event.sentence, markup=False)
        if event.opened is not None:
            self.smith.open_run(event.opened.run_dir)
        else:
            self._look()


WELCOME = """[b]Welcome.[/b] From a folder of pictures to a LoRA in eight steps.

  [b]n[/b]       begin: the wizard asks for model, pictures and settings
  [b]F1[/b]      help for what is shown
  [b]Ctrl+P[/b]  every action by name
  [b]Ctrl+Q[/b]  quit; a training goes on without the screen

There is no run yet. Each one will be listed here with its state.
Just to see it work:  lorasmith demo"""
