"""The app: wires the screens together and ends cleanly in every case."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console
from textual import constants
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import CommandPalette
from textual.filter import LineFilter
from textual.reactive import Reactive
from textual.screen import Screen, SystemModalScreen

from engine.errors import LoraSmithError
from tui.display.ascii_filter import AsciiFilter
from tui.display.key_order import ANSWER_SECONDS
from tui.display.no_colour import NoColours
from tui.display.symbols import symbols
from tui.display.terminal import driver_class
from tui.display.themes import OWN, PALETTES, first_theme, frame_colours, is_ansi, save_theme
from tui.leaving import LeavingApp
from tui.setup.draft import Draft
from tui.texts import DEMO_TOOLTIP, HELP_TOOLTIP, _

if TYPE_CHECKING:
    from pathlib import Path

    from textual.command import Provider

    from engine.runs import RunDir
    from tui.screens.caption_changes import CaptionEdit


def _actions() -> type[Provider]:
    """Imported when the palette opens."""
    from tui.display.palette import Actions

    return Actions


@dataclass(frozen=True)
class Appearance:
    """How the app is shown, as set on the command line or in the person's own file."""

    images: str = "auto"
    """auto, halfblock, sixel, kitty or off."""
    mouse: bool = True
    low_bandwidth: bool = False
    theme: str | None = None
    """The one of the person's own file of defaults."""

    def image_mode(self, colour_system: str | None, no_colour: bool) -> str:
        """halfblock, sixel, kitty or off; "poor" where the terminal has too few colours for half blocks."""
        if self.images != "auto":
            return self.images
        if self.low_bandwidth:
            return "off"
        return "poor" if symbols().ascii or no_colour or colour_system not in ("truecolor", "256") else "halfblock"


class LoraSmithApp(LeavingApp):
    """The wizard, the list of runs and the dashboard.

    Args:
        run_dir: a run to show at once; without one the app begins with the list of runs.
        appearance: from the command line.
        draft: the wizard's state; by default that of the last time.
    """

    TITLE = "LoRA Smith"
    CSS_PATH = ["app.tcss", "screens/home.tcss"]  # noqa: RUF012 - Textual's own type
    """Home is the default screen, whose own CSS_PATH Textual does not read."""
    ENABLE_COMMAND_PALETTE = True
    NOTIFICATION_TIMEOUT = ANSWER_SECONDS
    ansi_theme_dark = Reactive(PALETTES[0], init=False)
    ansi_theme_light = Reactive(PALETTES[1], init=False)
    COMMANDS = {_actions}  # noqa: RUF012 - Textual's own type
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "leave_app", _("Quit"), tooltip=_("Leave; a running training continues."), priority=True),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("ctrl+l", "repaint", _("Repaint"), show=False, tooltip=_("Redraw the screen."), priority=True),
        Binding(
            "ctrl+p",
            "command_palette",
            _("Palette"),
            show=False,
            tooltip=_("Find any action by its name or by what it does."),
            priority=True,
        ),
        Binding("f1", "help", _("Help"), tooltip=HELP_TOOLTIP, priority=True),
        Binding(
            "f6",
            "editor",
            _("Editor"),
            show=False,
            tooltip=_("Edit this text or these settings in your own editor (VISUAL or EDITOR)."),
            priority=True,
        ),
        Binding("f2", "toggle_images", _("Images"), show=False, tooltip=_("Images on or off.")),
    ]

    def __init__(
        self, run_dir: RunDir | None = None, appearance: Appearance | None = None, draft: Draft | None = None
    ) -> None:
        colours = Console(force_terminal=True, color_system=constants.COLOR_SYSTEM).color_system  # type: ignore[arg-type]
        appearance = appearance or Appearance()
        theme = first_theme(colours, own=appearance.theme)
        self._colour_system = colours
        super().__init__(driver_class=driver_class(), ansi_color=is_ansi(theme))
        for own in OWN:
            self.register_theme(own)
        self.set_reactive(App.ansi_color, None)
        self.set_reactive(App.theme, theme)
        # All this was made for the default theme until now.
        self.stylesheet.set_variables(self.get_css_variables())
        self._refresh_truecolor_filter(self.ansi_theme)
        self.set_class(self.current_theme.dark, "-dark-mode", update=False)
        self.set_class(not self.current_theme.dark, "-light-mode", update=False)
        self.appearance = appearance
        self.images = self.appearance.image_mode(colours, self.no_color)
        """halfblock, sixel, kitty, poor or off."""
        self.draft = draft if draft is not None else Draft.load()
        self.first_run = run_dir
        self.first_step: str | None = None
        """The step that the wizard opens with."""
        self.caption_edits: dict[Path, list[CaptionEdit]] = {}
        """What can be undone in the step Captions, by the folder of the images."""

    def get_css_variables(self) -> dict[str, str]:
        """Those of the theme, with colours of frames for each."""
        variables = super().get_css_variables()
        return {**frame_colours(variables, ansi=is_ansi(self.theme)), **variables}

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's or with NO_COLOR our own, and on a terminal without other letters one to ASCII."""
        return [*(self._to_no_colour or super().get_line_filters()), *self._to_ascii]

    @cached_property
    def _to_no_colour(self) -> Sequence[LineFilter]:
        """One object for all lines: what it makes of them is cached by it."""
        return [NoColours()] if self.no_color else []

    @cached_property
    def _to_ascii(self) -> Sequence[LineFilter]:
        return [AsciiFilter()] if symbols().ascii else []

    def get_default_screen(self) -> Screen[None]:
        """Home: all other screens are above it."""
        from tui.screens.home import HomeScreen

        return HomeScreen()

    def on_mount(self) -> None:
        """Open what the command line names, above home."""
        if self.first_run is not None:
            self.open_run(self.first_run)
        elif self.first_step is not None:
            self.go_to(self.first_step)

    def go_to(self, step: str | None, *, back: bool = False) -> None:
        """Show a step of the wizard, or home for None; keeps the draft. `back`: by Escape, from the step after it."""
        from tui.screens.steps import STEPS

        if step is not None:
            self.draft.step = step
        self._keep_draft()
        while len(self.screen_stack) > (1 if step is None else 2):
            self.pop_screen()
        if step is None:
            return
        screen = next(entry for entry in STEPS if entry.name == step).screen()
        screen.came_back = back
        if len(self.screen_stack) == 1:
            self.push_screen(screen)
        else:
            self.switch_screen(screen)

    def open_run(self, run_dir: RunDir) -> None:
        """Show the dashboard of a run, live or ended, above the list of runs."""
        from engine.runs.integrity import damaged_run_error, fault_of
        from tui.screens.dashboard import DashboardScreen
        from tui.screens.home import HomeScreen

        if fault := fault_of(run_dir):
            self.show_error(damaged_run_error(run_dir, fault))
            return
        self.go_to(None)
        self.watched = run_dir
        home = self.screen_stack[0]
        if isinstance(home, HomeScreen):
            home.wanted = str(run_dir.path)
        self.push_screen(DashboardScreen(run_dir))

    def _places(self) -> Iterable[SystemCommand]:
        """Where every screen leads to."""
        from tui.screens.steps import STEPS

        def leave(step: str | None) -> None:
            self._store()
            self.go_to(step)

        yield SystemCommand(
            _("List of runs"), _("All runs, and new ones. What was entered is kept."), partial(leave, None)
        )
        if len(self.screen_stack) > 1:  # home has a key for it
            yield SystemCommand(_("Start the demo"), DEMO_TOOLTIP, self.action_start_demo)
        for number, step in enumerate(STEPS, 1):
            title = _("Step {0}: {1}").format(number, step.title)
            yield SystemCommand(title, _("Go to this step of the setup."), partial(leave, step.name))

    def open_queue(self) -> None:
        """Show the queue, above the list of runs."""
        from engine.queue import Queue, queue_directory
        from tui.screens.queue import QueueScreen

        self.go_to(None)
        self.push_screen(QueueScreen(Queue(queue_directory())))

    def action_start_demo(self) -> None:
        """Set up the demo, after a question where another setup is unfinished."""
        from tui.screens.demo_start import start_demo

        self._store()
        start_demo(self)

    def show_error(self, error: BaseException) -> None:
        """Show what went wrong and how to fix it."""
        from tui.screens.problem import ProblemScreen

        self.push_screen(ProblemScreen(error))

    def action_help(self) -> None:
        """Show help for the focused widget, the screen or dialog, and all keys; close it if it is shown."""
        from tui.screens.help import HelpScreen

        if isinstance(self.screen, HelpScreen):
            self.screen.dismiss()
        elif not isinstance(self.screen, SystemModalScreen):  # the palette
            self.push_screen(HelpScreen(self.screen))

    def action_repaint(self) -> None:
        """Redraw the screen, after another program wrote into the terminal."""
        if self._driver is not None:
            self._driver.write("\x1b[2J")
        self.refresh(repaint=True, layout=True)

    def action_editor(self) -> None:
        """Open the text of what has the focus, or of what it is in, in the person's editor."""
        from tui.screens.own_editor import OwnEditor

        nodes = (self.focused or self.screen).ancestors_with_self
        owner: Any = next((node for node in nodes if hasattr(node, "edited")), None)
        if owner is None:
            self.notify(_("There is no text to edit here."), markup=False)
            return
        try:
            OwnEditor(self, owner)
        except LoraSmithError as error:
            self.show_error(error)

    def action_toggle_images(self) -> None:
        """Images on or off."""
        from tui.widgets.image_view import ImageView

        option = self.appearance.images
        mode = option if option in ("sixel", "kitty") else "halfblock"
        self.images = "off" if self.images == mode else mode
        for image in self.screen.query(ImageView):
            image.watch_path()

    def watch_theme(self, before: str, theme: str) -> None:
        """Keep a chosen theme for the next start."""
        if theme != before:
            trouble = save_theme(theme, self._colour_system)
            if trouble:
                self.notify(trouble, severity="warning", markup=False)

    def get_key_display(self, binding: Binding) -> str:
        """F2 and not f2; the rest as Textual writes it."""
        key = super().get_key_display(binding)
        if symbols().ascii and not key.isascii():
            key = binding.key
        return key.upper() if re.fullmatch(r"f\d+", key) else key

    def action_command_palette(self) -> None:
        """Show the palette."""
        from tui.display.palette import Palette

        if not isinstance(self.screen, CommandPalette):
            self.push_screen(Palette())

    def search_themes(self) -> None:
        """Choose a theme."""
        from tui.display.palette import Themes

        self.push_screen(Themes())

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette: every action that has a key here, the steps, and the themes; no cursor movement."""
        if not self.no_color:
            help_text = _(
                "Light, dark, high contrast, 16 colours. Remembered for next time; LORASMITH_THEME overrides it."
            )
            yield SystemCommand(_("Theme"), help_text, self.search_themes)
        if not screen.is_modal:
            yield from self._places()
        yield from self._actions(screen)

    def _actions(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Those of the keys that work now, and those of the app, which a dialog's keys do not include."""
        active = [(each.binding, each.node, each.tooltip) for each in screen.active_bindings.values()]
        own = [(each, self, each.tooltip) for each in self.BINDINGS if isinstance(each, Binding) and each.tooltip]
        seen = set()
        for binding, node, tooltip in [*active, *own]:
            offered = binding.show or tooltip
            if binding.description and offered and binding.action not in seen and not binding.system:
                seen.add(binding.action)
                run = partial(self.run_action, binding.action, default_namespace=node)
                yield SystemCommand(binding.description, tooltip or "", run)
