"""A run, live or ended: where it stands, its loss, samples, events and log, and what can be wished."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.worker import Worker, WorkerState, get_current_worker

from engine.runs import RunDir, request
from engine.runs.history import OutOfMemory, RunHistory
from engine.text import printable
from tui.screens.base import BaseScreen
from tui.screens.steps import STEPS
from tui.texts import _
from tui.watching.machine import MachineWatch
from tui.watching.run import IDLE_SECONDS, LIVE_SECONDS, Look, RunWatch
from tui.widgets.lines import Lines
from tui.widgets.run_panes import PANES, RunPanes
from tui.widgets.step_bar import StepBar
from tui.words import hints
from tui.words import run as words

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.memory.remedy import Remedy
    from tui.screens.remedies import Weigh


class DashboardScreen(BaseScreen):
    """Follows a run's directory and writes nothing but wishes; closing it leaves the run alone."""

    CSS_PATH = "dashboard.tcss"
    AUTO_FOCUS = ""
    HELP = _("""
## Train

The training is a process of its own. This screen only watches it: closing it, or losing the line, stops nothing.

* **Sample now**, **Save now**, **Pause** and **Stop** are wishes; the trainer answers after its present step.
* **Stop** finishes the step and saves everything; **Resume** goes on from there, to the byte.
* **Detach** leaves LoRA Smith; `lorasmith attach` comes back.
""")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "wish('sample_now')", _("Sample"), tooltip=_("Draw the sample prompts now.")),
        Binding("w", "wish('save_now')", _("Save"), tooltip=_("Save the LoRA and the full state of this step now.")),
        Binding("p", "pause", _("Pause"), tooltip=_("Hold the training after this step, or let it go on.")),
        Binding("x", "stop", _("Stop"), tooltip=_("Finish the step, save everything, end; asks before.")),
        Binding("r", "resume", _("Resume"), tooltip=_("Go on from the last saved state.")),
        Binding("m", "remedies", _("Remedies"), tooltip=_("What helps against the out-of-memory.")),
        Binding("v,enter", "results", _("Files"), tooltip=_("Results: the saved files with their samples.")),
        Binding("d", "detach", _("Detach"), tooltip=_("Leave LoRA Smith; the training goes on.")),
        Binding("escape", "home", _("Runs"), tooltip=_("The list of runs; the training goes on.")),
        *(
            Binding(str(place), f"pane('{name}')", title, show=False, tooltip=_("Show this part."))
            for place, (name, title) in enumerate(PANES.items(), 1)
        ),
    ]

    @dataclass
    class Looked(Message):
        """The follower found something new."""

        look: Look

    @dataclass
    class Configured(Message):
        """The run's configuration was read."""

        config: RunConfig

    @dataclass
    class Wished(Message):
        """A wish lies in the box."""

        id: str
        name: str

    @dataclass
    class Resumed(Message):
        """The trainer was started again."""

        notes: list[str]

    @dataclass
    class Remedied(Message):
        """What helps was found out."""

        remedies: list[Remedy]
        weigh: Weigh | None

    def __init__(self, run_dir: RunDir) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.history = RunHistory()
        self.look: Look | None = None
        """The newest look."""
        self.config: RunConfig | None = None
        self.machine = MachineWatch()
        self.follower = RunWatch(run_dir, self.machine)
        self._asked: dict[str, str] = {}
        """Wishes that are not answered yet: id to name."""
        self._word = ""
        """What was said last; it goes when the run's state changes."""
        self._offered = -1
        """The life of the run whose out-of-memory was shown."""
        self._changes: Mapping[str, object] | None = None
        """Settings that the last resume was to change."""
        self._wake = threading.Event()

    @property
    def state(self) -> str:
        """One of the run's states, or "gone"."""
        return "starting" if self.look is None else "gone" if self.look.gone else self.look.state.state

    @property
    def live(self) -> bool:
        """True while a trainer works on it here."""
        return self.look is not None and not self.look.gone and self.look.state.live

    def compose_content(self) -> ComposeResult:
        """Heading, progress, four panes, message."""
        yield StepBar("dashboard", [step.name for step in STEPS])
        yield Lines(id="heading")
        yield Lines(id="progress")
        yield Lines(id="notice", classes="error", wraps=True)
        yield RunPanes(self.run_dir)
        yield Lines(id="message")

    def on_mount(self) -> None:
        """Begin to follow."""
        self.query_one("#heading", Lines).say(_("Reading the run …"))
        self.machine.start()
        self._follow()
        self._read_config()

    def on_unmount(self) -> None:
        """Let the threads end."""
        self.machine.stop()
        self._wake.set()

    @work(thread=True, exclusive=True, exit_on_error=False, group="watch")
    def _follow(self) -> None:
        worker = get_current_worker()
        while not worker.is_cancelled:
            look = self.follower.look()
            if look is not None:
                self.post_message(self.Looked(look))
            if look is None or look.complete:
                self._wake.wait(LIVE_SECONDS if self.live else IDLE_SECONDS)
                self._wake.clear()

    @work(thread=True, exclusive=True, exit_on_error=False, group="config")
    def _read_config(self) -> None:
        from engine.config import load_config

        if self.run_dir.config_path.is_file():
            self.post_message(self.Configured(load_config(self.run_dir.config_path)))

    @on(Configured)
    def _use(self, event: Configured) -> None:
        self.config = event.config
        self._redraw()

    @on(Looked)
    def _take(self, event: Looked) -> None:
        look, before = event.look, self.state
        self.history.feed(look.events)
        self.look = look
        if self.state != before:
            self._word = ""
            self.refresh_bindings()
        self._hear_answers()
        self._redraw()
        if look.complete and self.state == "failed" and self.history.oom is not None and self.is_current:
            self._offer_once()

    def _redraw(self) -> None:
        """Write what changed."""
        look, history = self.look, self.history
        if look is None:
            return
        heading = words.heading(history.name or self.run_dir.name, self.state, history, complete=look.complete)
        self.query_one("#heading", Lines).say(heading)
        self.refresh_status()
        if not look.complete:
            return
        self.query_one("#progress", Lines).say(words.progress_lines(history, look.state, self.size.width - 2))
        notice, lines = self.query_one("#notice", Lines), hints.notice(self.run_dir, history, look)
        notice.say("\n".join(lines))
        notice.set_class(bool(lines), "-shown")
        self._draw_message()
        self.query_one(RunPanes).draw(history, look, self.config)

    def _draw_message(self) -> None:
        """What was said last, else what there is to know or to press."""
        if self.look is not None:
            self.query_one("#message", Lines).say(self._word or hints.hint(self.history, self.look))

    def say(self, sentence: str) -> None:
        """Put a sentence above the footer, until the run's state changes."""
        self._word = sentence
        self._draw_message()

    def status_text(self) -> str:
        """State, step, loss, time left."""
        if self.look is None:
            return _("Reading the run …")
        history, state = self.history, self.look.state
        total = history.max_train_steps or state.max_train_steps
        lines = [words.heading(history.name or self.run_dir.name, self.state, history).plain]
        lines.append(_("step {0}").format(words.step_words(words.reached(history, state), total)))
        if history.loss is not None:
            lines.append(_("loss {0:.4f}").format(history.loss))
        return "\n".join([*lines, words.time_left(history, state)])

    def on_resize(self) -> None:
        """Another layout may show other panes."""
        super().on_resize()
        self.call_after_refresh(self._redraw)

    def on_screen_resume(self) -> None:
        """Back from another screen."""
        self._redraw()

    def action_pane(self, name: str) -> None:
        """Show a pane, and give it the keys."""
        self.query_one(RunPanes).choose(name)
        self.call_after_refresh(self._redraw)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Wishes while it lives, a resume when it has ended unfinished."""
        state = self.state
        if action in ("wish", "pause", "stop", "detach"):
            return self.live
        if action == "resume":
            return self.look is not None and state in ("stopped", "failed", "lost", "unknown")
        if action == "remedies":
            return state == "failed" and self.history.oom is not None
        if action == "results":
            return state != "gone"
        return True

    def action_wish(self, name: str) -> None:
        """Put a wish into the box."""
        if self.look is not None and not self.look.writable:
            self.say("✗ " + _("You may not write into {0}.").format(printable(self.run_dir.control)))
            return
        self.say(_("{0}: asked …").format(words.WISHES[name]))
        self._wish(name)

    @work(thread=True, exit_on_error=False, group="wish")
    def _wish(self, name: str) -> None:
        self.post_message(self.Wished(request(self.run_dir, name), name))

    @on(Wished)
    def _remember(self, event: Wished) -> None:
        self._asked[event.id] = event.name
        self._hear_answers()
        self._wake.set()

    def _hear_answers(self) -> None:
        """Tell the trainer's answers; a run that has ended gives none."""
        for identifier, name in list(self._asked.items()):
            answer = self.history.answers.get(identifier)
            if answer is None and self.live:
                continue
            del self._asked[identifier]
            if name in ("pause", "continue") and answer == "done":
                self.say("")  # the state says it
                continue
            told = printable(answer) if answer is not None else _("no answer, the run has ended")
            self.say(_("{0}: {1}").format(words.WISHES[name], told))

    def action_pause(self) -> None:
        """Hold it, or let it go on."""
        self.action_wish("continue" if self.state == "paused" else "pause")

    def action_stop(self) -> None:
        """Ask, then wish."""
        from tui.screens.ask import AskScreen

        answers = {"no": _("No, let it train"), "yes": _("Stop: finish the step, save everything, end")}
        question = _("Stop {0}?").format(printable(self.run_dir.name))
        self.app.push_screen(AskScreen(question, answers), self._stop)

    def _stop(self, answer: str | None) -> None:
        if answer == "yes":
            self.action_wish("stop")

    def action_resume(self) -> None:
        """Go on; where it may still go on elsewhere, ask."""
        from tui.screens.ask import AskScreen

        if self.state != "unknown" or self.look is None:
            self._go_on()
            return
        answers = {"no": _("No, leave it"), "yes": _("Resume it here")}
        text = _("{0}. Two machines on one run would spoil it.").format(self.look.state.detail.capitalize())
        question = _("Does {0} still go on there?").format(printable(self.run_dir.name))
        self.app.push_screen(AskScreen(question, answers, text), self._resume_here)

    def _resume_here(self, answer: str | None) -> None:
        if answer == "yes":
            self._go_on()

    def _go_on(self, changes: Mapping[str, object] | None = None) -> None:
        self.say(_("Resuming …"))
        self._changes = changes
        self._resume(changes)

    def resume_accepted(self, run_dir: RunDir) -> None:
        """Resume with the settings that were asked for before the question."""
        self.say(_("Resuming …"))
        self._resume(self._changes, accept_changes=True)

    @work(thread=True, exclusive=True, exit_on_error=False, group="resume")
    def _resume(self, changes: Mapping[str, object] | None, *, accept_changes: bool = False) -> None:
        from tui.begin import begin_again

        notes: list[str] = []
        begin_again(self.run_dir, changes, accept_changes=accept_changes, say=notes.append)
        self.post_message(self.Resumed(notes))

    @on(Worker.StateChanged)
    def _not_resumed(self, event: Worker.StateChanged) -> None:
        if event.worker.group == "resume" and event.state is WorkerState.ERROR:
            self.say("")

    @on(Resumed)
    def _resumed(self, event: Resumed) -> None:
        for note in event.notes:
            self.notify(printable(note), markup=False)
        self.smith.watched = self.run_dir
        self._read_config()
        self._wake.set()

    def _offer_once(self) -> None:
        """Open the remedies by itself, once for each time that the memory ran out."""
        if self._offered != self.history.lives:
            self._offered = self.history.lives
            self.action_remedies()

    def action_remedies(self) -> None:
        """Find out what helps, then show it."""
        if self.history.oom is not None:
            self._find_remedies(self.history.oom)

    @work(thread=True, exclusive=True, exit_on_error=False, group="remedies")
    def _find_remedies(self, oom: OutOfMemory) -> None:
        from engine.config import load_config
        from engine.memory.remedies import remedies
        from tui.planned import weighed

        config = self.run_dir.with_own_datasets(load_config(self.run_dir.config_path))
        machine = self.machine.latest
        cards = machine.cards(config.memory.device, config.training.num_processes) if machine else []
        card = cards[0] if cards and not oom.device.startswith("cpu") else None
        found = remedies(config, card, oom.phase)
        weigh = partial(weighed, config, card, oom, found) if card is not None else None
        self.post_message(self.Remedied(found, weigh))

    @on(Remedied)
    def _show_remedies(self, event: Remedied) -> None:
        from tui.screens.remedies import RemediesScreen

        if self.history.oom is None or self.look is None:
            return
        trouble = "" if self.look.writable else _("You may not write into this run, so nothing can be changed.")
        screen = RemediesScreen(words.oom_lines(self.history.oom), event.remedies, trouble, event.weigh)
        self.app.push_screen(screen, self._apply)

    def _apply(self, remedy: Remedy | None) -> None:
        if remedy is not None:
            self._go_on(remedy.changes)

    def action_results(self) -> None:
        """The files and samples so far."""
        from tui.screens.results import ResultsScreen

        self.app.push_screen(ResultsScreen(self.run_dir))

    def action_detach(self) -> None:
        """Leave; the training goes on."""
        self.smith.detach()

    def action_home(self) -> None:
        """The list of runs."""
        self.smith.go_to(None)
