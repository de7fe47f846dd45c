"""Settings of a run that can change while it trains: their current values, and the trainer's answer to a new one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import OptionList, Static

from engine.runs import RunDir, request
from engine.text import printable
from tui.screens.ask_text import AskTextScreen
from tui.screens.base import BaseScreen
from tui.screens.entries import EntriesScreen
from tui.texts import _
from tui.widgets.lines import Lines

if TYPE_CHECKING:
    from engine.config.changes import EffectiveConfig
    from engine.config.form import FieldFacts
    from engine.runs.history import RunHistory

LOOK_SECONDS = 0.3
LABEL_CELLS = 30


class ChangeSettingScreen(BaseScreen):
    """Sends requests to a run's trainer and shows its answers; the run's configuration file has the current values.

    Args:
        run_dir: a run that trains.
        history: of its dashboard, which follows the run and so receives the answers.
        live: whether the trainer is running.
        left_waiting: called with the id of a request that has no answer yet when the screen is left.
    """

    CSS_PATH = "change_setting.tcss"
    HELP = _("""
## Change a setting

These settings can change while the run trains. **Enter** edits the chosen one; the trainer checks the value between two
steps, and its answer is shown below. Each change is recorded in the run's file with its step, so that
resuming or repeating the run makes the same change at the same step.

A new length recomputes the learning rate schedule; the answer shows the rate of the next step.
""")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "edit", _("Edit"), tooltip=_("Change the value of the chosen setting.")),
        Binding("escape", "back", _("Back"), tooltip=_("Back to the run.")),
    ]

    @dataclass
    class Read(Message):
        """The run's configuration was read."""

        config: EffectiveConfig

    @dataclass
    class Sent(Message):
        """A request was sent."""

        id: str
        key: str

    def __init__(
        self, run_dir: RunDir, history: RunHistory, live: Callable[[], bool], left_waiting: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.run_dir, self.history, self.live, self.left_waiting = run_dir, history, live, left_waiting
        self.config: EffectiveConfig | None = None
        self.facts: list[FieldFacts] = []
        self._pending = ""
        """Id of the request that is not answered yet; empty without one."""

    def compose_content(self) -> ComposeResult:
        """Heading, settings, help for the chosen one, the answer."""
        yield Static(_("Change a setting of {0}").format(printable(self.run_dir.name)), classes="title", markup=False)
        yield OptionList(markup=False)
        yield Lines(id="about", wraps=True)
        yield Lines(id="message", wraps=True)

    def on_mount(self) -> None:
        """Read the current values, and poll for answers."""
        self._read()
        self.set_interval(LOOK_SECONDS, self._show_answer)

    @work(thread=True, exclusive=True, exit_on_error=False, group="read")
    def _read(self) -> None:
        from engine.config import load_config
        from engine.config.changes import effective_config

        config = load_config(self.run_dir.config_path)
        self.post_message(self.Read(effective_config(config, self.history.step)))

    @on(Read)
    def _show(self, event: Read) -> None:
        from engine.config.change import LIVE_KEYS
        from engine.config.form import fields

        self.config = event.config
        self.facts = [fields()[key] for key in LIVE_KEYS]
        options = self.query_one(OptionList)
        chosen = options.highlighted or 0
        options.clear_options()
        options.add_options([row(facts, self._value(facts)) for facts in self.facts])
        options.highlighted = chosen
        options.focus()

    def _value(self, facts: FieldFacts) -> Any:
        return getattr(getattr(self.config, facts.table), facts.name)

    @property
    def chosen(self) -> FieldFacts | None:
        """The highlighted setting."""
        place = self.query_one(OptionList).highlighted
        return self.facts[place] if self.facts and place is not None else None

    @on(OptionList.OptionHighlighted)
    def _explain(self) -> None:
        if (facts := self.chosen) is not None:
            limits = _("Allowed: {0}.").format(facts.limits) if facts.limits else ""
            self.query_one("#about", Lines).set_text(f"{facts.help} {limits}".strip())

    @on(OptionList.OptionSelected)
    def _selected(self) -> None:
        self.action_edit()

    def action_edit(self) -> None:
        """Ask for a new value of the chosen setting."""
        from engine.config.form import input_text, parse

        facts = self.chosen
        if facts is None:
            return
        if not self.live():
            self.set_message("✗ " + _("The run is not training: resume it with --set instead."))
            return
        value = input_text(facts, self._value(facts))
        screen: AskTextScreen | EntriesScreen
        if facts.kind == "list":
            screen = EntriesScreen(facts.title, facts.help, value)
        else:
            unit = f" ({facts.unit})" if facts.unit and facts.unit.casefold() not in facts.title.casefold() else ""
            hint = " " + _("unset clears the value.") if facts.optional else ""
            screen = AskTextScreen(f"{facts.title}{unit}", facts.help + hint, lambda text: parse(facts, text), value)
        self.app.push_screen(screen, lambda answer: self._take(facts, answer))

    def _take(self, facts: FieldFacts, answer: str | None) -> None:
        from engine.config.form import parse

        if answer is None:
            return
        value = parse(facts, answer)
        if value == self._value(facts):
            self.set_message(_("{0} already has this value.").format(facts.title))
            return
        self.set_message(_("{0}: sent; the trainer answers between two steps …").format(facts.title))
        self._send(facts.key, value)

    @work(thread=True, exit_on_error=False, group="send")
    def _send(self, key: str, value: Any) -> None:
        from engine.config.change import Change
        from engine.config.changes import changed_by
        from engine.runs.prepare import absolute_paths

        assert self.config is not None
        checked = absolute_paths(changed_by(self.config, Change(0, key, value)))
        arguments = {"key": key, "value": checked.value(key)}
        self.post_message(self.Sent(request(self.run_dir, "set", arguments), key))

    @on(Sent)
    def _wait_for_answer(self, event: Sent) -> None:
        self._pending = event.id

    def _show_answer(self) -> None:
        """Show the answer once it is there."""
        if not self._pending:
            return
        answer = self.history.answers.get(self._pending)
        if answer is None and self.live():
            return
        self._pending = ""
        sign = "✗" if answer is None or answer.startswith("refused") else "✓"
        self.set_message(f"{sign} {printable(answer) if answer is not None else _('no answer, the run has ended')}")
        self._read()

    def set_message(self, sentence: str) -> None:
        """Put a sentence above the footer."""
        self.query_one("#message", Lines).set_text(sentence)

    def status_text(self) -> str:
        """The run whose settings these are."""
        return _("Settings of {0} that can change now").format(printable(self.run_dir.name))

    def action_back(self) -> None:
        """Back to the run, which shows an answer that comes later."""
        if self._pending:
            self.left_waiting(self._pending)
        self.dismiss()


def row(facts: FieldFacts, value: Any) -> str:
    """One setting: title, value, unit."""
    from engine.config.form import unit, value_text

    return f"{facts.title:<{LABEL_CELLS}} {printable(value_text(facts, value))} {unit(facts, value)}".rstrip()
