"""Captions by a model: the options to choose, and the progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import DescendantFocus
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Checkbox, Input, Select, Static

from engine.captioning.captioner import Kind
from engine.captioning.model_options import ModelOptions
from engine.captioning.options import read_options
from engine.config.form import FieldFacts
from engine.errors import UsageError
from engine.text import plural, printable
from tui.display.symbols import symbols
from tui.text.captioners import in_order
from tui.texts import _
from tui.watching.captioner import JobLook
from tui.widgets.path_input import PathInput
from tui.widgets.text_input import TextInput
from tui.widgets.tick import Tick

BAR_CELLS = 40


class CaptionerScreen(ModalScreen[dict[str, Any] | None]):
    """The options of a captioner, a row each. The result is all values by name; None after Escape.

    Args:
        kind: of captioner.
        values: initial values, where they are not the defaults.
        about: what there is to caption, one sentence.
    """

    CSS_PATH = "captioner.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "start", _("Start"), priority=True, tooltip=_("Make the captions.")),
        Binding("escape", "dismiss(None)", _("Cancel"), tooltip=_("Nothing is started.")),
    ]

    def __init__(self, kind: Kind, values: Mapping[str, Any], about: str) -> None:
        super().__init__()
        self.kind, self.about = kind, about
        self.facts = in_order(kind.options)
        self.values = {**kind.options().model_dump(), **values}

    def compose(self) -> ComposeResult:
        """Heading, one row an option, help for the focused one, buttons."""
        with Vertical(classes="dialog -large"):
            yield Static(_("Captions by {0}").format(self.kind.title), classes="dialog-title")
            yield Static(self.about, markup=False)
            with VerticalScroll(id="options", can_focus=False):
                for facts in self.facts:
                    with Horizontal(classes="row"):
                        yield Static(_(facts.title), classes="label", markup=False)
                        yield self._field(facts)
                        if facts.unit:
                            yield Static(facts.unit, classes="unit hint", markup=False)
            yield Static(id="help", classes="hint", markup=False)
            yield Static(id="problem", classes="error", markup=False)
            with Horizontal(classes="buttons"):
                yield Button(_("Start"), id="start", compact=True, variant="primary")
                yield Button(_("Cancel"), id="cancel", compact=True)
                yield Static(_("Ctrl+N starts, Escape cancels."), classes="hint")

    def _field(self, facts: FieldFacts) -> Widget:
        value = self.values[facts.key]
        if facts.kind == "flag":
            return Tick("", bool(value), id=facts.key)
        if facts.kind == "choice":
            choices = [(str(choice), choice) for choice in facts.choices]
            return Select(choices, value=value, allow_blank=False, id=facts.key, compact=True)
        if facts.key == "model" and issubclass(self.kind.options, ModelOptions):
            return PathInput(str(value), folders_only=True, id=facts.key, compact=True)
        return TextInput(str(value), id=facts.key, compact=True)

    @on(DescendantFocus)
    def _explain(self, event: DescendantFocus) -> None:
        """Help for the focused option."""
        facts = next((facts for facts in self.facts if facts.key == event.widget.id), None)
        words = [_(facts.help)] if facts is not None and facts.help else []
        if facts is not None and facts.limits:
            words.append(_("Allowed: {0}.").format(facts.limits))
        self.query_one("#help", Static).update(" ".join(words))

    def _entered(self) -> dict[str, Any]:
        """All values as they are in the form; numbers are read by the options' own model."""
        entered: dict[str, Any] = {}
        for facts in self.facts:
            field = self.query_one(f"#{facts.key}")
            assert isinstance(field, Input | Checkbox | Select)
            entered[facts.key] = field.value.strip() if isinstance(field, Input) else field.value
        return entered

    @on(Button.Pressed, "#start")
    def action_start(self) -> None:
        """Check the values and return them."""
        try:
            options = read_options(self.kind.options, self._entered())
        except UsageError as error:
            problem = self.query_one("#problem", Static)
            problem.update(f"✗ {printable(str(error))}")
            problem.display = True
            return
        self.dismiss(options.model_dump())

    @on(Button.Pressed, "#cancel")
    def _cancel(self) -> None:
        self.dismiss(None)


class CaptioningScreen(ModalScreen[str | None]):
    """The progress of captioning, which the screen below updates by `show`. The result is "stop", "settings", or None.

    Args:
        look: the latest one.
    """

    CSS_PATH = "captioner.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "stop", _("Stop"), tooltip=_("Finish this image and stop; finished captions stay.")),
        Binding("c", "settings", _("Settings"), tooltip=_("Start over, or continue with the rest.")),
        Binding("escape,q", "dismiss(None)", _("Close"), tooltip=_("Captioning continues.")),
    ]

    def __init__(self, look: JobLook) -> None:
        super().__init__()
        self.look = look

    def compose(self) -> ComposeResult:
        """Heading, bar, messages, buttons."""
        with Vertical(classes="dialog"):
            yield Static(id="heading", classes="dialog-title", markup=False)
            yield Static(id="bar", markup=False)
            yield Static(id="messages", markup=False)
            with Horizontal(classes="buttons"):
                yield Button(_("Stop"), id="stop", compact=True)
                yield Button(_("Settings"), id="settings", compact=True)
                yield Button(_("Close"), id="close", compact=True, variant="primary")
                yield Static(id="keys", classes="hint")

    def on_mount(self) -> None:
        """Show the look that is known."""
        self.show(self.look)
        self.query_one("#close", Button).focus()

    def show(self, look: JobLook) -> None:
        """Update the progress."""
        self.look = look
        self.query_one("#heading", Static).update(look.sentence())
        self.query_one("#bar", Static).update(bar(look.history.done, look.history.total))
        self.query_one("#messages", Static).update("\n".join(self._lines()))
        self.query_one("#stop", Button).display = look.live
        self.query_one("#settings", Button).display = not look.live
        keys = _("s stops, Escape closes.") if look.live else _("c settings, Escape closes.")
        self.query_one("#keys", Static).update(keys)
        self.refresh_bindings()

    def _lines(self) -> list[str]:
        history = self.look.history
        lines = [printable(note) for note in history.notes[-2:]]
        if history.warnings:
            warned = plural(len(history.warnings), _("warning"))
            lines.append(_("! {0}, the last one: {1}").format(warned, printable(history.warnings[-1])))
        if history.error is not None:
            lines += [f"✗ {printable(history.error.message)}", printable(history.error.hint)]
        elif self.look.live:
            lines.append(_("It continues when you close this, leave the step or quit."))
        return lines

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Stop while it is live, settings when it has ended."""
        return self.look.live if action == "stop" else not self.look.live if action == "settings" else True

    @on(Button.Pressed, "#stop")
    def action_stop(self) -> None:
        """Stop after this batch."""
        self.dismiss("stop")

    @on(Button.Pressed, "#settings")
    def action_settings(self) -> None:
        """To the settings."""
        self.dismiss("settings")

    @on(Button.Pressed, "#close")
    def _close(self) -> None:
        self.dismiss(None)


def bar(done: int, total: int) -> str:
    """ "━━━━──── 12 of 40"."""
    if not total:
        return ""
    filled = round(BAR_CELLS * done / total)
    return f"{symbols().bar(filled, BAR_CELLS)} " + _("{0} of {1}").format(done, plural(total, _("image")))
