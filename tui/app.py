"""The app: wires the screens together and ends cleanly, whatever ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tui.draft import Draft
from tui.texts import _
from tui.themes import HIGH_CONTRAST, first_theme

if TYPE_CHECKING:
    from engine.runs import RunDir


@dataclass(frozen=True)
class Appearance:
    """How it is shown, as asked for on the command line."""

    images: str = "auto"
    """auto, halfblock, sixel, kitty or off."""
    mouse: bool = True
    low_bandwidth: bool = False


class LoraSmithApp(App[int]):
    """The wizard, the list of runs and the dashboard.

    Args:
        run_dir: a run to show at once; without one the app begins with the list of runs.
        appearance: from the command line.
        draft: the wizard's state; by default that of the last time.
    """

    TITLE = "LoRA Smith"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "leave", _("Quit"), tooltip=_("A training goes on without the screen."), priority=True),
        Binding("ctrl+c", "leave", show=False, priority=False),
        Binding("ctrl+l", "repaint", _("Repaint"), show=False, tooltip=_("Draw everything anew.")),
        Binding("f2", "toggle_images", _("Pictures"), show=False, tooltip=_("Pictures on or off.")),
    ]

    def __init__(
        self, run_dir: RunDir | None = None, appearance: Appearance | None = None, draft: Draft | None = None
    ) -> None:
        super().__init__()
        self.appearance = appearance or Appearance()
        self.images = "halfblock" if self.appearance.images == "auto" else self.appearance.images
        self.draft = draft if draft is not None else Draft.load()
        self.first_run = run_dir
        self.watched: RunDir | None = None
        """The run that a dashboard follows; leaving asks about it while it lives."""
        self.register_theme(HIGH_CONTRAST)

    def on_mount(self) -> None:
        """Theme, signals, first screen."""
        self.theme = first_theme(self.console.color_system)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGHUP, signal.SIGTERM):
            with suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread: a test
                loop.add_signal_handler(number, self._end_by_signal, number)
        from tui.screens.home import HomeScreen

        self.push_screen(HomeScreen())
        if self.first_run is not None:
            self.open_run(self.first_run)

    def _end_by_signal(self, number: signal.Signals) -> None:
        """Close the screen and leave the run alone."""
        self.draft.save()
        self.exit(return_code=128 + number)

    def go_to(self, step: str | None) -> None:
        """Show a step of the wizard, or home for None; keeps the draft."""
        from tui.screens.home import HomeScreen
        from tui.screens.steps import STEPS

        if step is not None:
            self.draft.step = step
        self._keep_draft()
        while len(self.screen_stack) > 2 and not isinstance(self.screen, HomeScreen):
            self.pop_screen()
        if step is None:
            if not isinstance(self.screen, HomeScreen):
                self.pop_screen()
            return
        screen = next(one for one in STEPS if one.name == step).screen()
        if isinstance(self.screen, HomeScreen):
            self.push_screen(screen)
        else:
            self.switch_screen(screen)

    def open_run(self, run_dir: RunDir) -> None:
        """Show the dashboard of a run, live or ended."""
        from tui.screens.dashboard import DashboardScreen

        self.watched = run_dir
        self.push_screen(DashboardScreen(run_dir))

    def show_error(self, error: BaseException) -> None:
        """Show what went wrong and how to mend it."""
        from tui.screens.problem import ProblemScreen

        self.push_screen(ProblemScreen(error))

    def _keep_draft(self) -> None:
        trouble = self.draft.save()
        if trouble:
            self.notify(trouble, severity="warning")

    def action_leave(self) -> None:
        """Leave; while a run lives, ask what becomes of it."""
        from engine.runs import true_state
        from tui.screens.leave import LeaveScreen

        store = getattr(self.screen, "store", None)
        if store is not None:
            store()
        self._keep_draft()
        if isinstance(self.screen, LeaveScreen):
            return
        if self.watched is not None and true_state(self.watched).live:
            self.push_screen(LeaveScreen(self.watched.name), self._left)
        else:
            self.exit(0)

    def _left(self, answer: str | None) -> None:
        from engine.runs import request

        if answer not in ("detach", "stop") or self.watched is None:
            return
        if answer == "stop":
            try:
                request(self.watched, "stop")
            except ValueError as error:
                self.show_error(error)
                return
        words = {
            "detach": _("The training goes on. Come back with: lorasmith attach {0}"),
            "stop": _("The training finishes its step, saves and ends. Look at it with: lorasmith attach {0}"),
        }
        self.exit(0, message=words[answer].format(self.watched.path))

    def action_repaint(self) -> None:
        """Draw everything anew, after something else wrote into the terminal."""
        self.refresh(repaint=True, layout=True)

    def action_toggle_images(self) -> None:
        """Pictures on or off."""
        from tui.widgets.picture import Picture

        shown = self.appearance.images if self.appearance.images not in ("auto", "off") else "halfblock"
        self.images = shown if self.images == "off" else "off"
        for picture in self.screen.query(Picture):
            picture.watch_path()

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the palette offers: everything that has a key here, and the themes."""
        yield SystemCommand(_("Theme"), _("Choose the colours, light, dark or high contrast."), self.search_themes)
        seen = set()
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.description and binding.action not in seen and not binding.system:
                seen.add(binding.action)
                node, action = active.node, binding.action

                async def run(action: str = action, node: object = node) -> None:
                    await self.run_action(action, default_namespace=node)  # type: ignore[arg-type]

                yield SystemCommand(binding.description, active.tooltip or "", run)
