"""A run, live or ended: its progress, loss, samples, events and log, and the commands for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.worker import get_current_worker

from engine.runs import RunDir, request
from engine.runs.events import ChangedEvent
from engine.text import printable
from tui.screens.resuming import Resuming
from tui.screens.steps import STEPS
from tui.shell import notify
from tui.text import hints
from tui.text import run as words
from tui.text.rows import sign, step_words
from tui.texts import _
from tui.watching.run import IDLE_SECONDS, LIVE_SECONDS, Look, RunWatch
from tui.widgets.chart import LossChart
from tui.widgets.lines import Lines
from tui.widgets.run_panes import PANE_TOOLTIPS, PANES, RunPanes
from tui.widgets.step_bar import StepBar

if TYPE_CHECKING:
    from engine.config import RunConfig


SLOWER = 6
"""So many times fewer looks on a slow line: each repaints the numbers."""


class DashboardScreen(Resuming):
    """Follows a run's directory and writes nothing but commands; closing it does not stop the run."""

    CSS_PATH = "dashboard.tcss"
    AUTO_FOCUS = ""
    FULL = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "send('sample_now')", _("Sample"), tooltip=_("Generate samples now.")),
        Binding("w", "send('save_now')", _("Save"), tooltip=_("Save the LoRA and the full state of this step now.")),
        Binding(
            "c",
            "change",
            _("Settings"),
            tooltip=_("Change learning rates, length, intervals while it trains."),
        ),
        Binding("p", "pause", _("Pause"), tooltip=_("Pause the training after this step, or continue it.")),
        Binding("x", "stop", _("Stop"), tooltip=_("Finish the step, save everything, end; asks before.")),
        Binding(
            "r",
            "resume",
            _("Resume"),
            tooltip=_("Continue from the last saved state; a finished run for longer."),
        ),
        Binding("m", "remedies", _("Remedies"), tooltip=_("How to fix the out-of-memory error.")),
        Binding("v,enter", "results", _("Results"), tooltip=_("The saved files with their samples: which one to use.")),
        Binding("d", "detach", _("Detach"), tooltip=_("Leave LoRA Smith; the training continues.")),
        Binding("escape", "home", _("Runs"), tooltip=_("The list of runs; the training continues.")),
        *(
            Binding(str(place), f"pane('{name}')", title, show=False, tooltip=PANE_TOOLTIPS[name])
            for place, (name, title) in enumerate(PANES.items(), 1)
        ),
    ]

    @dataclass
    class Looked(Message):
        """The follower has read something new."""

        look: Look

    @dataclass
    class Configured(Message):
        """The run's configuration was read."""

        config: RunConfig

    @dataclass
    class CommandSent(Message):
        """A command was written for the trainer."""

        id: str
        name: str

    def __init__(self, run_dir: RunDir) -> None:
        super().__init__(run_dir)
        self.follower = RunWatch(run_dir, self.machine)
        self._pending: dict[str, str] = {}
        """Commands that are not answered yet: id to name."""
        self._sentence = ""
        """The last message; cleared when the run's state changes."""

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
        yield Lines(id="message", wraps=True)

    def on_mount(self) -> None:
        """Begin to follow."""
        self.query_one("#heading", Lines).set_text(_("Reading the run …"))
        self.machine.start()
        self._follow()
        self._read_config()

    def on_unmount(self) -> None:
        """Stop the threads."""
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
                self._wake.wait(self._pace)
                self._wake.clear()

    @property
    def _pace(self) -> float:
        """Seconds until the next look; on a slow line more, except while a request waits for its answer."""
        slow = self.smith.appearance.low_bandwidth and not self._pending
        return (LIVE_SECONDS if self.live else IDLE_SECONDS) * (SLOWER if slow else 1)

    @work(thread=True, exclusive=True, exit_on_error=False, group="config")
    def _read_config(self) -> None:
        from engine.config import load_config
        from engine.config.changes import at_the_end

        if self.run_dir.config_path.is_file():
            self.post_message(self.Configured(at_the_end(load_config(self.run_dir.config_path))))

    @on(Configured)
    def _use(self, event: Configured) -> None:
        self.config = event.config
        self._redraw()

    @on(Looked)
    def _take(self, event: Looked) -> None:
        look, before, lived = event.look, self.state, self.live
        self.history.feed(look.events)
        self.look = look
        if self.live:
            self.history.hand_over(look.state.pid)
        if lived and not self.live and not look.gone:
            notify.on_screen(self.app, f"LoRA Smith: {self.run_title}: {sign(self.state)}")
        if any(isinstance(event, ChangedEvent) for event in look.events):
            self._read_config()
        if self.state != before:
            self._sentence = ""
            self.refresh_bindings()
        self._show_answers()
        self._redraw()
        if look.complete and self.state == "failed" and self.history.oom is not None and self.is_current:
            self._offer_once()

    def _redraw(self) -> None:
        """Update what changed."""
        look, history = self.look, self.history
        if look is None:
            return
        heading = words.heading(self.run_title, self.state, history, complete=look.complete)
        self.query_one("#heading", Lines).set_text(heading)
        self.refresh_status()
        if not look.complete:
            return
        training = self.config.training if self.config is not None else None
        planned = training.max_train_steps if training is not None and training.max_train_epochs is None else None
        progress = words.progress_lines(history, look.state, self.size.width - 2, planned)
        self.query_one("#progress", Lines).set_text(progress)
        notice, lines = self.query_one("#notice", Lines), hints.notice(self.run_dir, history, look)
        notice.set_text("\n".join(lines))
        notice.set_class(bool(lines), "-shown")
        self._draw_message()
        self.query_one(RunPanes).draw(history, look, self.config)

    def _draw_message(self) -> None:
        """The last message, else a hint."""
        if self.look is not None:
            self.query_one("#message", Lines).set_text(self._sentence or hints.hint(self.history, self.look))

    def answer(self, sentence: str) -> None:
        """Show above the footer, for some seconds, what a key has done."""
        self.set_message(sentence)
        self.fade(lambda: self.set_message(""))

    def set_message(self, sentence: str) -> None:
        """Show a sentence above the footer, until the run's state changes."""
        self.keep()
        self._sentence = sentence
        self._draw_message()

    def status_text(self) -> str:
        """State, step, loss, time left."""
        if self.look is None:
            return _("Reading the run …")
        history, state = self.history, self.look.state
        total = history.max_train_steps or state.max_train_steps
        lines = [words.heading(self.run_title, self.state, history).plain]
        lines.append(_("step {0}").format(step_words(words.reached(history, state), total)))
        if history.loss is not None:
            lines.append(_("loss {0:.4f}").format(history.loss))
        return "\n".join([*lines, words.time_left(history, state)])

    def on_resize(self) -> None:
        """Another layout may show other panes."""
        super().on_resize()
        self.call_after_refresh(self._redraw)

    def on_screen_resume(self) -> None:
        """Redraw after another screen was closed."""
        self._redraw()
        self.query_one(LossChart).redraw()

    def action_pane(self, name: str) -> None:
        """Show a pane, and focus it."""
        self.query_one(RunPanes).choose(name)
        self.call_after_refresh(self._redraw)

    def label_of(self, action: str) -> str | None:
        """Pause or continue, as the state is."""
        if action == "pause":
            return _("Continue") if self.state == "paused" else _("Pause")
        if action == "resume" and self.state == "finished":
            return _("Train longer")
        return super().label_of(action)

    @property
    def help_text(self) -> str:
        """About the run in its state."""
        return hints.help_text(self.state, live=self.live)

    @property
    def copied_text(self) -> str:
        """The path of the run."""
        return str(self.run_dir.path)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Commands while the run is live, a resume when it has ended."""
        state = self.state
        if action in ("send", "pause", "stop", "detach", "change"):
            return self.live
        if action == "resume":
            return self.look is not None and state in ("stopped", "failed", "lost", "unknown", "finished")
        if action == "remedies":
            return state == "failed" and self.history.oom is not None
        if action == "results":
            return state != "gone"
        return True

    def action_send(self, name: str) -> None:
        """Send a command to the trainer."""
        if self.look is not None and not self.look.writable:
            self.answer("✗ " + _("You don't have write permission in {0}.").format(printable(self.run_dir.control)))
            return
        self.set_message(_("{0}: sent …").format(words.COMMANDS[name]))
        self._send(name)

    @work(thread=True, exit_on_error=False, group="send")
    def _send(self, name: str) -> None:
        self.post_message(self.CommandSent(request(self.run_dir, name), name))

    @on(CommandSent)
    def _wait_for_answer(self, event: CommandSent) -> None:
        self._await(event.id, event.name)

    def _await(self, identifier: str, name: str) -> None:
        self._pending[identifier] = name
        self._show_answers()
        self._wake.set()

    def _show_answers(self) -> None:
        """Show the trainer's answers; a run that has ended gives none."""
        for identifier, name in list(self._pending.items()):
            answer = self.history.answers.get(identifier)
            if answer is None and self.live:
                continue
            del self._pending[identifier]
            if name in ("continue", "pause", "stop") and answer and not answer.startswith("refused"):
                self.set_message("")  # the state shows it
                continue
            result = words.answer_text(answer) if answer is not None else _("no answer, the run has ended")
            self.answer(_("{0}: {1}").format(words.COMMANDS[name], result))

    def action_change(self) -> None:
        """The settings that can change now."""
        from tui.screens.change_setting import ChangeSettingScreen

        if self.look is not None and not self.look.writable:
            self.answer("✗ " + _("You don't have write permission in {0}.").format(printable(self.run_dir.control)))
            return
        screen = ChangeSettingScreen(self.run_dir, self.history, lambda: self.live, lambda id: self._await(id, "set"))
        self.app.push_screen(screen)

    def action_pause(self) -> None:
        """Pause or continue."""
        self.action_send("continue" if self.state == "paused" else "pause")

    def action_stop(self) -> None:
        """Ask, then stop."""
        from tui.screens.ask import AskScreen

        answers = {"no": _("No, keep training"), "yes": _("Stop: finish the step, save everything, end")}
        question = _("Stop {0}?").format(printable(self.run_title))
        self.app.push_screen(AskScreen(question, answers), self._stop)

    def _stop(self, answer: str | None) -> None:
        if answer == "yes":
            self.action_send("stop")

    def action_results(self) -> None:
        """The files and samples so far."""
        from tui.screens.results import ResultsScreen

        self.app.push_screen(ResultsScreen(self.run_dir))

    def action_detach(self) -> None:
        """Leave; the training continues."""
        self.smith.detach()

    def action_home(self) -> None:
        """The list of runs."""
        if not self.left_full():
            self.smith.go_to(None)
