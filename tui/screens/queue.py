"""The queue: its entries with their states, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.timer import Timer
from textual.widgets import DataTable, Static

from engine.text import printable
from tui.screens.ask import AskScreen
from tui.screens.base import BaseScreen
from tui.texts import _
from tui.widgets.filterable import Filterable
from tui.widgets.frames import framed
from tui.widgets.lines import Lines
from tui.widgets.queue_table import QueueTable

if TYPE_CHECKING:
    from engine.queue import Entry, Queue, Runner
    from tui.text.queue_rows import Seen

SECONDS = 1.5
"""Between two looks at the queue, while the screen is shown."""


@dataclass(frozen=True)
class Look:
    """The queue at one moment."""

    seen: dict[str, Seen]
    runner: Runner | None
    paused: bool


class QueueScreen(BaseScreen):
    """Follows the queue's directory; the queue's process and its runs need nothing from this screen."""

    CSS_PATH = "queue.tcss"
    HELP = _("""
## Queue

Runs that are trained one after the other, or one on each card. **p** starts the queue's process, which continues when
this screen and the terminal are closed, and pauses it: then nothing new is started, and what runs continues.

* **Shift+Up**, **Shift+Down** move what waits, **h** holds it and lets it wait again.
* **x** stops a running entry with everything saved, **r** lets a failed or stopped one wait again: it continues from
  its last saved state.
* **d** removes an entry; the files of its run stay.

Add runs in the wizard's last step, or many at once in a shell: `lorasmith queue add`.
""")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "switch", _("Start"), tooltip=_("Start the queue, or let it start nothing new.")),
        Binding("shift+up,K", "move('up')", _("Up"), tooltip=_("Move the entry up.")),
        Binding("shift+down,J", "move('down')", _("Down"), tooltip=_("Move the entry down.")),
        Binding("h", "hold", _("Hold"), tooltip=_("Do not start the entry, or let it wait again.")),
        Binding("r", "retry", _("Retry"), tooltip=_("Let a failed or stopped entry wait again.")),
        Binding("x", "stop", _("Stop"), tooltip=_("Finish the step, save everything, end.")),
        Binding("d,delete", "remove", _("Remove"), tooltip=_("Remove the entry; the files of its run stay.")),
        Binding("escape", "back", _("Back"), tooltip=_("Back to the list of runs.")),
    ]

    class Looked(Message):
        """The queue was read."""

        def __init__(self, look: Look) -> None:
            super().__init__()
            self.look = look

    class Done(Message):
        """Something was done; with a sentence about it."""

        def __init__(self, sentence: str) -> None:
            super().__init__()
            self.sentence = sentence

    def __init__(self, queue: Queue) -> None:
        super().__init__()
        self.queue = queue
        self.look: Look | None = None
        self._timer: Timer | None = None

    def compose_content(self) -> ComposeResult:
        """What the queue does, its entries, the chosen one in full."""
        yield Lines(id="heading", classes="title")
        yield QueueTable()
        yield framed(VerticalScroll(Static(id="about"), id="details", can_focus=False), _("Entry"))
        yield Static(id="answer", classes="hint", markup=False)

    def on_screen_resume(self) -> None:
        """Shown: read the queue now, and then again and again."""
        self._read()

    def on_screen_suspend(self) -> None:
        """Another screen is shown."""
        if self._timer is not None:
            self._timer.stop()

    @work(thread=True, exclusive=True, exit_on_error=False, group="look")
    def _read(self) -> None:
        from engine.queue import running
        from engine.runs import RunDir, true_state
        from tui.text.queue_rows import Seen

        entries = self.queue.entries()
        runs = {entry.id: RunDir(Path(entry.run_dir)) for entry in entries if entry.started is not None}
        states = {number: true_state(run_dir) for number, run_dir in runs.items() if run_dir.is_run}
        seen = {entry.id: Seen(entry, states.get(entry.id)) for entry in entries}
        self.post_message(self.Looked(Look(seen, running(self.queue), self.queue.paused)))

    @on(Looked)
    def _show(self, event: Looked) -> None:
        self.look = event.look
        self.query_one("#heading", Lines).set_text(self._heading())
        self.query_one(QueueTable).show_entries(event.look.seen)
        self._describe()
        self.refresh_bindings()
        self.refresh_status()
        if self.is_active:
            self._timer = self.set_timer(SECONDS, self._read)

    def _heading(self) -> str:
        from tui.text.queue_rows import about_queue

        assert self.look is not None
        entries = [seen.entry for seen in self.look.seen.values()]
        return _("Queue · {0}").format(about_queue(entries, self.look.runner, self.look.paused))

    def chosen(self) -> Entry | None:
        """The highlighted entry."""
        seen = self.query_one(QueueTable).chosen
        return seen.entry if seen is not None else None

    @on(Filterable.Filtered)
    @on(DataTable.RowHighlighted)
    def _highlighted(self) -> None:
        self._describe()
        self.refresh_bindings()

    @on(DataTable.RowSelected)
    def _open(self) -> None:
        """Enter: the dashboard of the run."""
        from engine.runs import RunDir

        entry = self.chosen()
        if entry is None:
            return
        run_dir = RunDir(Path(entry.run_dir))
        if entry.started is not None and run_dir.is_run:
            self.smith.open_run(run_dir)
        else:
            words = GONE if entry.started is not None else _("{0} was not started yet.")
            self.answer(words.format(printable(entry.name)))

    def _describe(self) -> None:
        from tui.text.queue_rows import about

        seen = self.query_one(QueueTable).chosen
        nothing = NO_MATCH if self.look is not None and self.look.seen else EMPTY
        title, text = (printable(seen.entry.name), about(seen)) if seen is not None else (_("Entry"), nothing)
        self.query_one("#details").border_title = title
        self.query_one("#about", Static).update(text)

    def status_text(self) -> str:
        """What the queue does, and its entries."""
        from engine.queue.store import summary

        if self.look is None:
            return _("Reading the queue …")
        return f"{self._heading()}\n{summary([seen.entry for seen in self.look.seen.values()])}"

    # Keys

    def answer(self, sentence: str) -> None:
        """Show above the footer, for some seconds, what a key has done."""
        line = self.query_one("#answer", Static)
        line.update(sentence)
        self.fade(line.update)

    def label_of(self, action: str) -> str | None:
        """Start or pause, hold or release."""
        entry = self.chosen() if action == "hold" else None
        if action == "switch":
            return _("Pause") if self._is_working() else _("Start")
        if action == "hold" and entry is not None and entry.state == "held":
            return _("Release")
        return super().label_of(action)

    def _is_working(self) -> bool:
        return self.look is not None and self.look.runner is not None and not self.look.paused

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done with the highlighted entry; the rest is shown dim."""
        possible = {
            "move": ("waiting", "held"),
            "hold": ("waiting", "held"),
            "retry": ("failed", "stopped"),
            "stop": ("running",),
            "remove": ("waiting", "held", "finished", "failed", "stopped"),
        }
        if action not in possible:
            return True
        entry = self.chosen() if self.is_mounted else None
        return True if entry is not None and entry.state in possible[action] else None

    @work(thread=True, exit_on_error=False, group="doing")
    def _do(self, act: Callable[[], object], sentence: str) -> None:
        act()
        self.post_message(self.Done(sentence))

    @on(Done)
    def _show_done(self, event: Done) -> None:
        self.answer(event.sentence)
        self._read()

    def action_switch(self) -> None:
        """Start the queue's process, or pause it."""
        if self._is_working():
            self._do(lambda: self.queue.set_paused(True), _("Nothing new is started; what runs continues."))
        else:
            self._do(self._start, _("The queue runs; it continues when this screen is closed."))

    def _start(self) -> None:
        from engine.queue import running, start_runner

        self.queue.set_paused(False)
        if running(self.queue) is None:
            start_runner(self.queue)

    def action_move(self, place: str) -> None:
        """Move the entry by one place."""
        entry = self.chosen()
        if entry is not None:
            self._do(lambda: self.queue.move(entry, place), _("{0} was moved.").format(printable(entry.name)))

    def action_hold(self) -> None:
        """Hold the entry, or let it wait again."""
        entry = self.chosen()
        if entry is None:
            return
        name = printable(entry.name)
        if entry.state == "held":
            self._do(lambda: self.queue.release([entry]), _("{0} waits again.").format(name))
        else:
            self._do(lambda: self.queue.hold([entry]), _("{0} is held.").format(name))

    def action_retry(self) -> None:
        """Let the entry wait again."""
        entry = self.chosen()
        if entry is not None:
            sentence = _("{0} waits for another try.").format(printable(entry.name))
            self._do(lambda: self.queue.retry([entry]), sentence)

    def action_stop(self) -> None:
        """Ask, then stop the run."""
        from engine.runs import RunDir, request

        entry = self.chosen()
        if entry is None:
            return
        run_dir, name = RunDir(Path(entry.run_dir)), printable(entry.name)
        answers = {"no": _("No, keep training"), "yes": _("Stop: finish the step, save everything, end")}
        sentence = _("{0} was asked to stop; the queue continues with the next.").format(name)
        self._ask(_("Stop {0}?").format(name), answers, lambda: self._do(lambda: request(run_dir, "stop"), sentence))

    def action_remove(self) -> None:
        """Ask, then remove the entry."""
        entry = self.chosen()
        if entry is None:
            return
        name = printable(entry.name)
        answers = {"no": _("No, keep it"), "yes": _("Remove it from the queue; the files of its run stay")}
        removed = _("{0} was removed.").format(name)
        self._ask(_("Remove {0}?").format(name), answers, lambda: self._do(lambda: self.queue.remove([entry]), removed))

    def _ask(self, question: str, answers: dict[str, str], then: Callable[[], object]) -> None:
        def answered(answer: str | None) -> None:
            if answer == "yes":
                then()

        self.app.push_screen(AskScreen(question, answers), answered)

    def action_back(self) -> None:
        """Back to the list of runs."""
        self.dismiss()


GONE = _("The run of {0} was deleted or moved. d removes the entry.")
NO_MATCH = _("No entry fits the filter. Escape shows all.")
EMPTY = _("Nothing is here. The wizard's last step adds a run (a); lorasmith queue add adds many.")
