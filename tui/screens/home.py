"""The home screen: all runs with their true state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Static

from engine.text import plural, printable
from tui.screens.compare_choice import begin_comparison, comparable
from tui.screens.new_run import NewRuns
from tui.text.rows import about, progress, sign
from tui.texts import DEMO_TOOLTIP, _
from tui.widgets.filterable import Filterable

if TYPE_CHECKING:
    from engine.runs import KnownRun
    from tui.widgets.run_card import About
    from tui.widgets.run_table import RunTable

SECONDS = 2.0
"""Between two searches for runs, while the screen is shown."""


class HomeScreen(NewRuns):
    """Lists the runs, the newest first, and shows what can be done with the highlighted one.

    Its home.tcss is read by the app, whose lowest screen it is.
    """

    TITLE = "LoRA Smith"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", _("New run"), tooltip=_("Set up a new run, or continue the unfinished setup.")),
        Binding(
            "f", "file", _("From file"), tooltip=_("Start from a preset file, or from another trainer's configuration.")
        ),
        Binding("r", "resume", _("Resume"), tooltip=_("Continue from the last saved state.")),
        Binding("x", "stop", _("Stop"), tooltip=_("Finish the step, save everything, end.")),
        Binding("c", "copy", _("Copy"), tooltip=_("A new run with the settings of this one.")),
        Binding("d,delete", "delete", _("Delete"), tooltip=_("Remove what the run has written; asks before.")),
        Binding("m", "compare", _("Compare"), tooltip=_("Show the marked runs side by side; or this one and another.")),
        Binding("a", "rename", _("Rename"), tooltip=_("Show the run under another name in lists.")),
        Binding("e", "note", _("Note"), tooltip=_("Write a note about the run, for yourself.")),
        Binding("space", "mark", _("Mark"), show=False, tooltip=_("Mark a run to compare it with others.")),
        Binding("Q", "queue", _("Queue"), tooltip=_("The runs that wait for their turn.")),
        Binding("D", "app.start_demo", _("Start the demo"), show=False, tooltip=DEMO_TOOLTIP),
        Binding("q", "app.leave_app", _("Quit"), show=False, tooltip=_("Leave; a running training continues.")),
    ]
    HELP = _("""
## Runs

All your runs, and those below the working directory. The states are checked continuously: a run that is
shown as running has a live process.

* **lost**: the process stopped unexpectedly (killed, power cut). Resume continues from the last saved state.
* **unknown**: it was started on another machine. Resume continues it here.
* **failed**, **stopped**: open it to see why; Resume continues it.

**Space** marks a run (◆), **m** compares the marked ones; with none marked, the highlighted one with another.

**Q** shows the queue: runs that are trained one after the other.

**a** shows a run under another name, and **e** keeps a note about it. Both are for you alone: they are in the run's
folder, and change neither its files nor its trigger.

**/** filters the list by name, note, state and place, **y** copies the path of a run. **s** sorts the list: by place,
the runs of a project are together.
""")

    class RunsRead(Message):
        """The list of runs was read."""

        def __init__(self, runs: list[KnownRun]) -> None:
            super().__init__()
            self.runs = runs

    class Described(Message):
        """The details of a run were read."""

        def __init__(self, run: KnownRun, about: About) -> None:
            super().__init__()
            self.run, self.about = run, about

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, KnownRun] | None = None
        """Path to run, the newest first; None until the list was read."""
        self.table: RunTable | None = None
        self.marked: list[str] = []
        """Paths of the runs to compare, in the order of their marks."""
        self.wanted = ""
        """Path of the run whose dashboard was left: the cursor goes there."""
        self._timer: Timer | None = None

    def compose_content(self) -> ComposeResult:
        """What is shown before the list of runs was read: quick to draw."""
        yield Static(_("LoRA Smith · runs"), id="heading", classes="title")
        yield Static(id="empty")
        yield Static(id="draft", classes="hint", markup=False)

    def on_screen_resume(self) -> None:
        """Shown: read the list of runs now, and then every two seconds."""
        self._show_draft()
        self._go_to_wanted()
        if self.wanted and self.table is None:
            self.query_one("#empty", Static).update(_("Reading the list of runs …"))
        self.call_after_refresh(self._begin_to_look)

    def _begin_to_look(self) -> None:
        if self.is_active:  # attach has covered it by now
            if self._timer is not None:
                self._timer.stop()
            self._look()

    def on_screen_suspend(self) -> None:
        """Another screen is shown: stop reading the list. Behind a dialog, where it is seen, it stays current."""
        if self._timer is not None and not self.app.screen.is_modal:
            self._timer.stop()

    @work(thread=True, exclusive=True, exit_on_error=False, group="runs")
    def _look(self) -> None:
        from engine.runs import find_runs  # here and below: after the first paint

        self.post_message(self.RunsRead(find_runs([Path.cwd()])))

    @on(RunsRead)
    async def _show(self, event: RunsRead) -> None:
        if not self.is_attached:  # the app ends
            return
        before, chosen = self.runs, self.chosen()
        self.runs = {str(run.run_dir.path): run for run in event.runs}
        if before is None or bool(before) != bool(self.runs):
            await self._arrange()
        self.marked = [path for path in self.marked if path in self.runs]
        if self.table is not None:
            self.table.show_runs(self.runs, self.marked)
        self._go_to_wanted()
        now = self.chosen()
        if now != chosen:
            self._describe()
        if (now and now.state.state) != (chosen and chosen.state.state):
            self.refresh_bindings()
        self.refresh_status()
        if self.is_active:
            self._timer = self.set_timer(SECONDS, self._look)

    def _go_to_wanted(self) -> None:
        """The cursor to the run that was watched, once it is in the list."""
        if self.wanted and self.table is not None and self.table.choose(self.wanted):
            self.wanted = ""

    async def _arrange(self) -> None:
        """Mount the table and the details; without a run, the welcome text."""
        from tui.widgets.run_card import RunCard
        from tui.widgets.run_table import RunTable

        await self.query("#empty, RunTable, #details").remove()
        self.table = RunTable() if self.runs else None
        if self.table is None:
            await self.mount(Static(WELCOME, id="empty"), before="#draft")
        else:
            await self.mount(self.table, RunCard(), before="#draft")
            self.table.focus()

    def answer(self, sentence: str) -> None:
        """Show above the footer, for some seconds, what a key has done."""
        self.query_one("#draft", Static).update(sentence)
        self.fade(self._show_draft)

    def _show_draft(self) -> None:
        self.query_one("#draft", Static).update(self._draft_sentence())

    def chosen(self) -> KnownRun | None:
        """The highlighted run."""
        return self.table.chosen if self.table is not None else None

    @on(Filterable.Filtered)
    def _filtered(self) -> None:
        self.on_data_table_row_highlighted()

    def on_data_table_row_highlighted(self) -> None:
        """Another run is highlighted, or none."""
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
            self._read_details(run)
        elif self.table is not None:
            from tui.widgets.run_card import About, RunCard

            words = _("No run fits the filter. Escape shows all.")
            self.query_one(RunCard).show(About("", Content(words), None))

    @work(thread=True, exclusive=True, exit_on_error=False, group="details")
    def _read_details(self, run: KnownRun) -> None:
        from engine.runs.contact import newest_image
        from tui.widgets.run_card import About

        self.post_message(self.Described(run, About(printable(run.title), about(run), newest_image(run.run_dir))))

    @on(Described)
    def _show_details(self, event: Described) -> None:
        if event.run == self.chosen():
            from tui.widgets.run_card import RunCard

            self.query_one(RunCard).show(event.about)

    def status_text(self) -> str:
        """The live runs, or how many runs there are."""
        runs = list((self.runs or {}).values())
        live = [run for run in runs if run.state.live]
        lines = [
            f"{printable(run.title)}: {sign(run.state.state)}, {progress(run.state.step, run.state.max_train_steps)}"
            for run in live
        ]
        return "\n".join(lines or [plural(len(runs), _("run"))])

    @property
    def active_bindings(self) -> dict[str, ActiveBinding]:
        """The bar shows the key to delete only where it deletes; elsewhere it answers why not."""
        run, bindings = self.chosen(), super().active_bindings
        if run is not None and not self._possible("delete", run):
            for key, active in bindings.items():
                if active.binding.action == "delete":
                    bindings[key] = active._replace(binding=replace(active.binding, show=False))
        return bindings

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done with the highlighted run."""
        if action in ("compare", "mark"):
            return bool(comparable(self.runs or {}))
        if action in ("copy", "delete", "note", "rename", "resume", "stop"):
            run = self.chosen()
            if run is not None and action == "delete" and (run.state.live or run.state.state == "unknown"):
                return True  # it answers why not
            return run is not None and self._possible(action, run)
        return True

    def action_mark(self) -> None:
        """Mark the highlighted run to be compared, or unmark it."""
        run = self.chosen()
        if run is not None and self.table is not None:
            path = str(run.run_dir.path)
            self.marked = (
                [other for other in self.marked if other != path] if path in self.marked else [*self.marked, path]
            )
            self.table.show_runs(self.runs or {}, self.marked)

    def action_compare(self) -> None:
        """Compare the marked runs; with fewer than two, the highlighted one with one that the person chooses."""
        run = self.chosen()
        if run is not None:
            begin_comparison(self, self.runs or {}, self.marked, str(run.run_dir.path))

    def action_queue(self) -> None:
        """Show the queue."""
        self.smith.open_queue()


WELCOME = _("""[b]Welcome.[/b] From a folder of images to a LoRA in eight steps.

  [b]n[/b]       start: the wizard asks for model, images and settings
  [b]D[/b]       try it: the demo trains in minutes (lorasmith demo in a shell)
  [b]F1[/b]      help for what is shown
  [b]Ctrl+P[/b]  every action by name
  [b]Ctrl+Q[/b]  quit; a training continues without the screen

There is no run yet. Each one will be listed here with its state.""")
