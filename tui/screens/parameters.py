"""Step 5: a preset, every setting on top of it, and a forecast of the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.content import Content
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Input, Select, Static

from engine.config import list_presets
from engine.config.change import CHANGES, read_change
from engine.config.form import fields, form, value_text
from engine.errors import LoraSmithError
from engine.text import listing, printable
from tui.screens.from_file import FromFile
from tui.setup.demo import DEMO, is_demo
from tui.setup.draft import STEP_OF
from tui.setup.fault import take_fault
from tui.setup.forecast import Forecaster
from tui.setup.preset_reasons import preset_reasons
from tui.text.fields import change_text, step_title, vram_text
from tui.texts import _, ngettext
from tui.widgets.field import FieldForm, FieldList
from tui.widgets.form import Form
from tui.widgets.frames import framed
from tui.widgets.text_input import TextInput

if TYPE_CHECKING:
    from engine.config import RunConfig

FIRST_FIELD = "network.network_dim"
"""Highlighted at first: above it are the settings of other steps, and those that one rarely changes."""
PAUSE_SECONDS = 0.3
"""After the last edit, before steps, time and disk are recomputed."""


class Search(TextInput):
    """Filters the fields while typing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.end_search(True)", _("Clear"), tooltip=_("Show all fields again.")),
        Binding("down,enter", "screen.end_search(False)", _("To the fields"), tooltip=_("Go to the matching fields.")),
    ]


class ParametersScreen(FromFile):
    """Shows the form, and recomputes steps, epochs, time and disk after each edit."""

    STEP = "parameters"
    CSS_PATH = "parameters.tcss"
    AUTO_FOCUS = "FieldList"
    HELP = _("""
## Parameters

A **preset** on top, and below every setting of the run. A row that differs from the preset begins with `•`; Delete
restores the preset's value. Enter edits, Space switches or takes the next choice, Left and Right change choices, `/`
searches title, key and help, F3 shows the advanced settings as well. F6 opens all settings in your own
editor. Ctrl+Z undoes the last change, also a reset and what the editor has changed.

The lines at the bottom are a forecast of the run. The time comes from your earlier runs on this machine; it is
marked *rough* when it is only computed from the GPU's speed.
""")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash,ctrl+f", "search", _("Search"), key_display="/", tooltip=_("Find fields by title, key, help.")),
        Binding(
            "f3,ctrl+t", "toggle_advanced", _("All"), key_display="F3", tooltip=_("Show or hide the advanced settings.")
        ),
        Binding("f4", "preset", _("Preset"), tooltip=_("Choose the preset that everything starts from.")),
        Binding("ctrl+z", "undo", _("Undo"), show=False, tooltip=_("Undo the last change of a setting.")),
    ]

    @dataclass
    class Computed(Message):
        """The forecast, or why there is none."""

        turn: int
        lines: tuple[str, str]
        failed: bool

    def __init__(self) -> None:
        super().__init__()
        self.forecaster = Forecaster()
        self.turn = 0
        """Counts the edits: a forecast for an earlier one is out of date."""
        self._pause: Timer | None = None

    def compose_body(self) -> ComposeResult:
        """Preset, search, fields, help, forecast."""
        self.form = Form(self.draft)
        with Horizontal(id="preset-row"):
            yield Static(_("Preset"), id="preset-label")
            yield Select(
                self._presets(),
                value=self.draft.preset,
                allow_blank=False,
                type_to_search=False,
                compact=True,
                id="preset",
            )
        with Horizontal(id="search-row"):
            yield Search(placeholder=_("/ searches title, key and help"), compact=True, id="search")
            yield Static(id="counts")
        with Container(id="middle"):
            yield framed(FieldForm(self.form), _("Settings"))
            yield framed(Static(id="about", markup=False), _("Help"))
        yield Static(id="forecast", markup=False)
        yield Static(id="source", classes="hint", markup=False)

    def on_mount(self) -> None:
        """Start after the layout."""
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """Highlight the first wrong field, else the last one; show what was changed in the preset."""
        wrong = [key for key in self.form.wrong if key not in STEP_OF]
        fault = self.form.fault = take_fault(self.draft)
        self.rows.reload()
        key = next(iter([*fault, *wrong]), self.draft.extras.get("parameters.cursor"))
        self.rows.reload(key if key in self.rows.keys else FIRST_FIELD)
        self._show_counts()
        self._compute()
        notice = self.draft.take_notice()
        if fault:
            at, sentence = next(iter(fault.items()))
            facts = fields()[at]
            self.set_message(f"{_(facts.title)}: {printable(sentence)}", kind="error")
        elif notice:
            self.set_message(printable(notice), kind="warning")
        elif not self.show_origin() and (count := self._repeated()):
            words = ngettext(
                "{0} change made during that run will be repeated at the same step.",
                "{0} changes made during that run will be repeated at the same steps.",
                count,
            )
            self.set_message(words.format(count))

    def _repeated(self) -> int:
        """Changes of the run whose settings these are; not those that were typed here."""
        kept = self.draft.get(CHANGES)
        return sum(text in kept for text in self.draft.base().training.changes)

    @property
    def rows(self) -> FieldList:
        """The rows of the form."""
        return self.query_one(FieldList)

    def _presets(self) -> list[tuple[Content, str]]:
        """Presets by title; the demo's only with the demo base; a configuration file that was chosen."""
        self.draft.base()
        options = [
            (Content(printable(f"{preset.name}: {preset.title}")), preset.name)
            for preset in list_presets()
            if preset.name != DEMO or is_demo(self.draft)
        ]
        if self.draft.preset not in [name for _title, name in options]:
            path = Path(self.draft.preset)
            options.append((Content(_("{0}: the configuration of a run").format(printable(path.name))), str(path)))
        return options

    def store(self) -> None:
        """Values are in the draft already; keep what is typed and the highlighted field."""
        self.query_one(FieldForm).finish()
        self.form.store()
        self.draft.extras["parameters.cursor"] = self.rows.key

    def problems(self) -> Iterable[str]:
        """The first wrong field; the cursor goes there."""
        for key, sentence in self.form.wrong.items():
            if key in STEP_OF:
                yield _("{0}: fix it in the step {1}.").format(fields()[key].title, step_title(STEP_OF[key]))
                continue
            self._show_field(key)
            yield _("{0}: {1}").format(fields()[key].title, printable(sentence))

    def _show_field(self, key: str) -> None:
        if key not in self.rows.keys:
            self.query_one(Search).value = self.form.search = ""
        self.rows.reload(key)
        self.rows.focus()

    def action_search(self) -> None:
        """Go to the search line."""
        self.query_one(Search).focus()

    def action_end_search(self, clear: bool) -> None:
        """Back to the fields."""
        if clear:
            self.query_one(Search).value = ""
        self.rows.focus()

    def action_back(self) -> None:
        """Escape leaves a search before it leaves the step."""
        if self.form.search:
            self.action_end_search(clear=True)
        else:
            super().action_back()

    def edited(self) -> tuple[str, str]:
        """The whole configuration for an editor of the person's own, and the extension of its file."""
        from engine.config import dump_toml

        self.query_one(FieldForm).finish()
        return dump_toml(self.draft.config()), ".toml"

    def take_edited(self, text: str) -> None:
        """Take the settings that were changed there; Ctrl+Z undoes it."""
        self.form.adopt(text)
        self._refresh_form()

    def action_undo(self) -> None:
        """Undo the last change of a setting, or of many by the person's own editor."""
        key = self.form.take_back()
        if key:
            self._show_field(key)
            facts = fields()[key]
            words = _("{0} is {1} again.").format(_(facts.title), self.form.text(key) or _("empty"))
        else:
            words = _("Nothing to undo.") if key is None else _("The changes of your editor were undone.")
        self._refresh_form()
        self.answer(words)

    def action_toggle_advanced(self) -> None:
        """All settings, or the basic ones and those that were changed."""
        self.query_one(FieldForm).finish()
        self.form.advanced = not self.form.advanced
        self.rows.reload()
        self._show_counts()

    def action_preset(self) -> None:
        """Open the list of presets."""
        select = self.query_one("#preset", Select)
        select.focus()
        select.action_show_overlay()

    @on(Input.Changed, "#search")
    def _search(self, event: Input.Changed) -> None:
        self.form.search = event.value
        self.rows.reload(self.form.best() or None)
        self._show_counts()

    @on(Select.Changed, "#preset")
    def _choose_preset(self, event: Select.Changed) -> None:
        name = str(event.value)
        if name == self.draft.preset:
            return
        try:
            kept = self.draft.choose_preset(name)
        except LoraSmithError as error:
            self.smith.show_error(error)
            self.query_one("#preset", Select).value = self.draft.preset
            return
        self.form.forget_edits()
        self.form.judge()
        self._refresh_form()
        kept_text = ngettext("Kept {0} changed value, marked •.", "Kept {0} changed values, marked •.", len(kept))
        self.set_message(kept_text.format(len(kept)) if kept else _("All values are the preset's."))
        if kept:
            titles = listing([fields()[key].title for key in kept if key in fields()], 8)
            self.notify(titles, title=_("Kept"), markup=False)
        self.rows.focus()

    @on(FieldForm.Changed)
    def _changed(self, event: FieldForm.Changed) -> None:
        self.set_message("")
        self._report_dropped()
        self._refresh_form()

    def _report_dropped(self) -> None:
        """Show which changes during the training an edit has left out."""
        if dropped := [change_text(text) for text in self.form.dropped]:
            count = len(dropped)
            words = ngettext("{0} later change is left out.", "{0} later changes are left out.", count)
            self.set_message(words.format(count), kind="warning")
            more = _("{0}. The new value holds for the whole run; Delete restores the old one and its changes.")
            self.notify(more.format(listing(dropped, 4)), title=_("Left out"), markup=False)
            self.form.dropped = []

    @on(FieldForm.Refused)
    def _edit_elsewhere(self, event: FieldForm.Refused) -> None:
        key, facts = event.key, fields()[event.key]
        if key in STEP_OF:
            self.answer(_("Set in the step {0}: Ctrl+G goes there.").format(step_title(STEP_OF[key])))
            return
        from tui.screens.entries import EntriesScreen

        def keep(text: str | None) -> None:
            if text is not None:
                self.form.enter(key, text)
                self._report_dropped()
                self._refresh_form()

        self.app.push_screen(EntriesScreen(_(facts.title), _(facts.help), self.form.typed(key)), keep)

    @on(FieldList.Highlighted)
    def _highlighted(self) -> None:
        self._describe()

    def _refresh_form(self) -> None:
        self.rows.reload()
        self._show_counts()
        self._describe()
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(PAUSE_SECONDS, self._compute)

    def _show_counts(self) -> None:
        every = sum(len(table.fields) for table in form())
        which = _("advanced") if self.form.advanced else _("basic")
        changed = len(self.form.changed())
        words = _("{0} of {1} fields, {2} · {3} changed").format(len(self.rows.keys), every, which, changed)
        self.query_one("#counts", Static).update(words)

    def _describe(self) -> None:
        """Describe the highlighted field."""
        key = self.rows.key
        about = self.query_one("#about", Static)
        if not key:
            about.update(_("No field fits the search. Escape in the search line clears it."))
            return
        facts = fields()[key]
        text = Text(_(facts.title), "bold")
        text.append(f"  {key}\n", "not bold")
        if facts.help:
            text.append(f"{_(facts.help)}\n", "not bold")
        values = _("Preset: {0}. Default: {1}.").format(
            self.form.preset_text(key), value_text(facts, facts.default) or _("empty")
        )
        more = [values, *([_("Range: {0}.").format(facts.limits)] if facts.limits else []), vram_text(facts)]
        if later := [change_text(text) for text in self.draft.get(CHANGES) if read_change(text).key == key]:
            more.insert(0, _("During the training: {0}.").format("; ".join(later)))
        if facts.choices:
            more.insert(1, _("One of: {0}.").format(", ".join(value_text(facts, choice) for choice in facts.choices)))
        if reason := preset_reasons(self.draft.preset).get(key):
            more.insert(1, _("Why: {0}.").format(printable(reason).rstrip(".")))
        text.append(" ".join(part for part in more if part), "not bold")
        about.update(text, layout=False)

    def _compute(self) -> None:
        """Start computing; nothing is computed while a field is wrong."""
        self.turn += 1
        if self.form.wrong:
            self._show(_("Steps, time and disk are computed once the fields marked ✗ are fixed."), "", failed=True)
        else:
            self._forecast(self.turn, self.draft.config())

    @work(thread=True, exclusive=True, exit_on_error=False, group="forecast")
    def _forecast(self, turn: int, config: RunConfig) -> None:
        try:
            forecast = self.forecaster.forecast(config)
        except (LoraSmithError, OSError) as error:
            message = error.message if isinstance(error, LoraSmithError) else str(error)
            self.post_message(self.Computed(turn, (_("No forecast: {0}").format(printable(message)), ""), failed=True))
        else:
            self.post_message(self.Computed(turn, (forecast.line(), forecast.source()), failed=False))

    @on(Computed)
    def _computed(self, event: Computed) -> None:
        if event.turn == self.turn:
            self._show(*event.lines, failed=event.failed)

    def _show(self, line: str, source: str, *, failed: bool) -> None:
        forecast = self.query_one("#forecast", Static)
        forecast.update(("! " if failed else "") + line)
        forecast.set_class(failed, "warning")
        self.query_one("#source", Static).update(source)
