"""The ways out of the app: each keeps what was entered, and none stops a training unasked."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from engine.text import attach_line
from tui.display.key_order import KeysInOrder
from tui.texts import _

if TYPE_CHECKING:
    from engine.runs import RunDir
    from tui.setup.draft import Draft

CTRL_C_SECONDS = 3.0
"""Within this time a second Ctrl+C leaves."""


class LeavingApp(KeysInOrder):
    """Ends by a key, by Ctrl+C twice, by a signal, or with its terminal."""

    draft: Draft
    watched: RunDir | None = None
    """The run that a dashboard follows; leaving asks about it while it is live."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.farewell: tuple[str, ...] = ()
        """Lines for the shell after the screen is closed; Rich would break a command where the terminal ends."""
        self._interrupted = -CTRL_C_SECONDS

    def show_error(self, error: BaseException) -> None:
        """Show what went wrong and how to fix it."""
        raise NotImplementedError

    def on_load(self) -> None:
        """Handle signals before the terminal is changed, so that every end restores it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread: a test
                loop.add_signal_handler(number, self._end_by_signal, number)

    def _end_by_signal(self, number: signal.Signals) -> None:
        """Close the screen and leave the run alone."""
        try:
            self._store()
            self.draft.save()
        finally:
            self.exit(return_code=128 + number)

    def terminal_gone(self) -> None:
        """The input has ended: the terminal was closed."""
        self._end_by_signal(signal.SIGHUP)

    def _keep_draft(self) -> None:
        trouble = self.draft.save()
        if trouble:
            self.notify(trouble, severity="warning", markup=False)

    def _store(self) -> None:
        """Write what was entered in the shown step, also below a dialog, into the draft."""
        for screen in reversed(self.screen_stack):
            store = getattr(screen, "store", None)
            if store is not None:
                store()
                return

    def action_leave_app(self) -> None:
        """Leave; while the watched run is live, ask whether to stop it."""
        from engine.runs import true_state
        from tui.screens.leave import LeaveScreen

        if isinstance(self.screen, LeaveScreen):
            return
        self._store()
        self._keep_draft()
        if self.watched is not None and (state := true_state(self.watched)).live:
            self.push_screen(LeaveScreen(self.watched.name, paused=state.state == "paused"), self._left)
        else:
            self.exit()

    def _left(self, answer: str | None) -> None:
        from engine.runs import request, true_state

        if answer not in ("detach", "stop") or self.watched is None:
            return
        if answer == "stop":
            try:
                request(self.watched, "stop")
            except ValueError as error:
                self.show_error(error)
                return
        if answer == "stop":
            words = _("The training finishes its step, saves and ends. See it with:")
        elif true_state(self.watched).state == "paused":
            words = _("The training stays paused. To continue it, come back and press p:")
        else:
            words = _("The training continues. Come back with:")
        self.farewell = (words, f"  {attach_line(self.watched.path)}")
        self.exit()

    def detach(self) -> None:
        """Leave without stopping the watched run, and print how to return to it."""
        self._store()
        self._keep_draft()
        self._left("detach")

    @property
    def _is_training(self) -> bool:
        """Whether the watched run is live, or one of the list of runs as it was read last."""
        from engine.runs import true_state

        if self.watched is not None and true_state(self.watched).live:
            return True
        runs = getattr(self.screen_stack[0], "runs", None) or {}
        return any(run.state.live for run in runs.values())

    def action_interrupt(self) -> None:
        """Ctrl+C copies the selection; else the second one within three seconds leaves without asking."""
        from engine.runs import true_state

        selected = getattr(self.focused, "selected_text", "") or self.screen.get_selected_text()
        if selected:
            self.copy_to_clipboard(selected)
            return
        now = time.monotonic()
        if now - self._interrupted > CTRL_C_SECONDS:
            self._interrupted = now
            again, continues = _("Press Ctrl+C again to quit."), _("Training continues.")
            self.notify(f"{again} {continues}" if self._is_training else again)
            return
        if self.watched is not None and true_state(self.watched).live:
            self.detach()
            return
        self._store()
        self._keep_draft()
        self.exit()
