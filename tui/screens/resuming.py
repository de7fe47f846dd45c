"""Resuming a run from its dashboard: as it was, longer, or with a remedy for an out-of-memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from textual import on, work
from textual.message import Message
from textual.worker import Worker, WorkerState

from engine.runs import RunDir
from engine.runs.history import RunHistory
from engine.runs.shortage import Shortage
from engine.text import printable
from tui.screens.base import BaseScreen
from tui.text import run as words
from tui.text.longer import RunLength
from tui.texts import _
from tui.watching.machine import MachineWatch
from tui.watching.run import Look

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.oom.remedy import Remedy
    from tui.screens.remedies import EstimateSavings


class Resuming(BaseScreen):
    """Base of the dashboard.

    Args:
        run_dir: the run.
    """

    @dataclass
    class Resumed(Message):
        """The trainer was started again."""

        notes: list[str]

    @dataclass
    class Remedied(Message):
        """The remedies were computed."""

        remedies: list[Remedy]
        estimate: EstimateSavings | None

    def __init__(self, run_dir: RunDir) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.history = RunHistory()
        self.config: RunConfig | None = None
        """With all its changes; None until it was read."""
        self.look: Look | None = None
        """The newest look."""
        self.machine = MachineWatch()
        self._offered = -1
        """The life (start or resume) of the run whose out-of-memory was shown."""
        self._changes: Mapping[str, object] | None = None
        """Settings that the last resume changes."""
        self._wake = threading.Event()

    @property
    def run_title(self) -> str:
        """The name that lists show."""
        return (self.look.title if self.look is not None else "") or self.run_dir.name

    @property
    def state(self) -> str:
        """One of the run's states, or "gone"."""
        return "starting" if self.look is None else "gone" if self.look.gone else self.look.state.state

    def set_message(self, sentence: str) -> None:
        """Show a sentence above the footer."""
        raise NotImplementedError

    def _read_config(self) -> object:
        """Read the run's configuration again."""
        raise NotImplementedError

    def action_resume(self) -> None:
        """Resume; a finished run to another length; ask where it may still be running elsewhere."""
        from tui.screens.ask import AskScreen
        from tui.screens.longer import LongerScreen

        if self.state == "finished":
            screen = LongerScreen(self.run_dir, self.run_title, self._length)
            self.app.push_screen(screen, self._train_longer)
            return
        if self.state != "unknown" or self.look is None:
            self._continue()
            return
        answers = {"no": _("No, leave it"), "yes": _("Resume it here")}
        text = _("{0}. Running it on two machines would damage it.").format(self.look.state.detail.capitalize())
        question = _("Is {0} still running there?").format(printable(self.run_title))
        self.app.push_screen(AskScreen(question, answers, text), self._resume_here)

    @property
    def _length(self) -> RunLength:
        """Of the finished run: in epochs, unless its settings have a number of steps."""
        history, training = self.history, self.config.training if self.config is not None else None
        in_epochs = training is None or training.max_train_epochs is not None
        epochs = (training.max_train_epochs if training is not None else None) or history.epochs
        per_epoch, seconds = history.updates_per_epoch, history.seconds_per_step
        return RunLength(in_epochs, history.step, epochs if in_epochs else None, per_epoch, seconds)

    def _train_longer(self, changes: Mapping[str, object] | None) -> None:
        if changes is not None:
            self._continue(changes)

    def _resume_here(self, answer: str | None) -> None:
        if answer == "yes":
            self._continue()

    def _continue(self, changes: Mapping[str, object] | None = None) -> None:
        self.set_message(_("Resuming …"))
        self._changes = changes
        self._resume(changes)

    def resume_accepted(self, run_dir: RunDir) -> None:
        """Resume with the changed settings, after the question was answered."""
        self.set_message(_("Resuming …"))
        self._resume(self._changes, accept_changes=True)

    @work(thread=True, exclusive=True, exit_on_error=False, group="resume")
    def _resume(self, changes: Mapping[str, object] | None, *, accept_changes: bool = False) -> None:
        from tui.shell.begin import resume

        notes: list[str] = []
        resume(self.run_dir, changes, accept_changes=accept_changes, log=notes.append)
        self.post_message(self.Resumed(notes))

    @on(Worker.StateChanged)
    def _not_resumed(self, event: Worker.StateChanged) -> None:
        if event.worker.group == "resume" and event.state is WorkerState.ERROR:
            self.set_message("")

    @on(Resumed)
    def _resumed(self, event: Resumed) -> None:
        for note in event.notes:
            self.notify(printable(note), markup=False)
        self.smith.watched = self.run_dir
        self._read_config()
        self._wake.set()

    def _offer_once(self) -> None:
        """Open the remedies automatically, once for each out-of-memory."""
        if self._offered != self.history.start_count:
            self._offered = self.history.start_count
            self.action_remedies()

    def action_remedies(self) -> None:
        """Compute the remedies, then show them."""
        if self.history.oom is not None:
            self._find_remedies(self.history.oom)

    @work(thread=True, exclusive=True, exit_on_error=False, group="remedies")
    def _find_remedies(self, oom: Shortage) -> None:
        from engine.config import load_config
        from engine.families.resolved import resolve_without_model
        from engine.hardware import process_count
        from engine.oom.remedies import remedies
        from tui.text.vram_text import estimate_savings

        config = self.run_dir.with_own_datasets(load_config(self.run_dir.config_path))
        machine = self.machine.latest
        processes = process_count(config.training.num_processes, config.memory.device)
        cards = machine.cards(config.memory.device, processes) if machine else []
        card = cards[0] if cards and not oom.device.startswith("cpu") else None
        run = resolve_without_model(config)
        choices = remedies(run, card, oom.phase)
        estimate = partial(estimate_savings, run, card, oom, choices) if card is not None else None
        self.post_message(self.Remedied(choices, estimate))

    @on(Remedied)
    def _show_remedies(self, event: Remedied) -> None:
        from tui.screens.remedies import RemediesScreen

        if self.history.oom is None or self.look is None:
            return
        trouble = (
            "" if self.look.writable else _("You don't have write permission for this run, so nothing can be changed.")
        )
        screen = RemediesScreen(words.oom_lines(self.history.oom), event.remedies, trouble, event.estimate)
        self.app.push_screen(screen, self._apply)

    def _apply(self, remedy: Remedy | None) -> None:
        if remedy is not None:
            self._continue(remedy.changes)
