"""Step 5: a preset, and every setting on top of it, with what the run then amounts to."""

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
from engine.config.form import fields, form, shown
from engine.errors import LoraSmithError
from engine.paths import ASSETS
from engine.text import listing, printable
from tui.draft import STEP_OF
from tui.outlook import Forecast
from tui.screens.step import StepScreen
from tui.texts import _, ngettext
from tui.widgets.field import FieldForm, FieldList, step_title, vram_text
from tui.widgets.form import Form
from tui.widgets.text_input import TextInput

if TYPE_CHECKING:
    from engine.config import RunConfig

PAUSE_SECONDS = 0.3
"""After the last edit, before steps, time and disk are computed anew."""
DEMO = "demo"


class Search(TextInput):
    """Filters the fields while one types."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.end_search(True)", _("Clear"), tooltip=_("Show all fields again.")),
        Binding("down,enter", "screen.end_search(False)", _("To the fields"), tooltip=_("Go to the fields found.")),
    ]


class ParametersScreen(StepScreen):
    """Shows the form and computes steps, epochs, time and disk anew while one edits."""

    STEP = "parameters"
    CSS_PATH = "parameters.tcss"
    AUTO_FOCUS = "FieldList"
    HELP = _("""
## Parameters

A **preset** on top, and below every setting of the run. A row that differs from the preset begins with `•`; Delete goes
back to the preset's value. Enter edits, Space switches or takes the next choice, Left and Right turn choices, `/`
searches title, key and help, F3 shows the advanced settings as well.

The lines at the bottom say what the run then amounts to. A time is told from earlier runs of yours on this machine, or
is called *rough* when it only comes from the GPU's arithmetic.
""")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash,ctrl+f", "search", _("Search"), key_display="/", tooltip=_("Find fields by title, key, help.")),
        Binding(
            "f3,ctrl+t", "toggle_advanced", _("All"), key_display="F3", tooltip=_("The advanced settings too, or not.")
        ),
        Binding("f4", "preset", _("Preset"), tooltip=_("Choose the preset that everything starts from.")),
    ]

    @dataclass
    class Computed(Message):
        """What the run amounts to, or why that cannot be said."""

        turn: int
        lines: tuple[str, str]
        failed: bool

    def __init__(self) -> None:
        super().__init__()
        self.forecast = Forecast()
        self.turn = 0
        """Counts the edits: an answer to an earlier one is out of date."""
        self._pause: Timer | None = None

    def compose_body(self) -> ComposeResult:
        """Preset, search, fields, help, outlook."""
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
            yield FieldForm(self.form)
            yield Static(id="about", markup=False)
        yield Static(id="outlook", markup=False)
        yield Static(id="source", classes="hint", markup=False)

    def on_mount(self) -> None:
        """Once everything is in its place."""
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        """Stand on what is wrong, else where one was; say what became of the preset."""
        wrong = [key for key in self.form.wrong if key not in STEP_OF]
        kept = wrong[0] if wrong else self.draft.extras.get("parameters.cursor")
        own = [key for key in self.rows.keys if key not in STEP_OF]
        self.rows.reload(kept if kept in self.rows.keys else next(iter(own), None))
        self._show_counts()
        self._compute()
        notice = self.draft.take_notice()
        if notice:
            self.say(printable(notice), kind="warning")

    @property
    def rows(self) -> FieldList:
        """The rows of the form."""
        return self.query_one(FieldList)

    def _presets(self) -> list[tuple[Content, str]]:
        """Presets by title; the demo's only with the demo base; a configuration file that was chosen."""
        self.draft.base()
        demo = self.draft.get("model.pretrained_model_name_or_path") == str(ASSETS / "demo_base")
        options = [
            (Content(printable(f"{preset.name}: {preset.title}")), preset.name)
            for preset in list_presets()
            if preset.name != DEMO or demo or self.draft.preset == DEMO
        ]
        if self.draft.preset not in [name for _title, name in options]:
            path = Path(self.draft.preset)
            options.append((Content(_("{0}: the configuration of a run").format(printable(path.name))), str(path)))
        return options

    def store(self) -> None:
        """Values are in the draft already; keep what is typed and where one stands."""
        self.query_one(FieldForm).finish()
        self.form.store()
        self.draft.extras["parameters.cursor"] = self.rows.key

    def problems(self) -> Iterable[str]:
        """The first wrong field; the cursor goes there."""
        for key, sentence in self.form.wrong.items():
            if key in STEP_OF:
                yield _("{0}: mend it in the step {1}.").format(fields()[key].title, step_title(STEP_OF[key]))
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
        self.form.judge()
        self._refresh_form()
        told = ngettext("Kept {0} changed value, marked •.", "Kept {0} changed values, marked •.", len(kept))
        self.say(told.format(len(kept)) if kept else _("All values are the preset's."))
        if kept:
            titles = listing([fields()[key].title for key in kept if key in fields()], 8)
            self.notify(titles, title=_("Kept"), markup=False)
        self.rows.focus()

    @on(FieldForm.Changed)
    def _changed(self, event: FieldForm.Changed) -> None:
        self.say("")
        self._refresh_form()

    @on(FieldForm.Refused)
    def _elsewhere(self, event: FieldForm.Refused) -> None:
        key, facts = event.key, fields()[event.key]
        if key in STEP_OF:
            self.say(_("Set in the step {0}: Ctrl+G goes there.").format(step_title(STEP_OF[key])))
            return
        from tui.screens.entries import EntriesScreen

        def keep(text: str | None) -> None:
            if text is not None:
                self.form.enter(key, text)
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
        """What the highlighted field does."""
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
            self.form.preset_text(key), shown(facts, facts.default) or _("empty")
        )
        more = [values, *([_("Range: {0}.").format(facts.limits)] if facts.limits else []), vram_text(facts)]
        if facts.choices:
            more.insert(1, _("One of: {0}.").format(", ".join(shown(facts, choice) for choice in facts.choices)))
        text.append(" ".join(part for part in more if part), "not bold")
        about.update(text, layout=False)

    def _compute(self) -> None:
        """Start computing; nothing is computed while a field is wrong."""
        self.turn += 1
        if self.form.wrong:
            self._show(_("Steps, time and disk are computed when the fields marked ✗ are mended."), "", failed=True)
        else:
            self._look_ahead(self.turn, self.draft.config())

    @work(thread=True, exclusive=True, exit_on_error=False, group="outlook")
    def _look_ahead(self, turn: int, config: RunConfig) -> None:
        try:
            found = self.forecast.outlook(config)
        except (LoraSmithError, OSError) as error:
            message = error.message if isinstance(error, LoraSmithError) else str(error)
            self.post_message(self.Computed(turn, (_("No outlook: {0}").format(printable(message)), ""), failed=True))
        else:
            self.post_message(self.Computed(turn, (found.line(), found.source()), failed=False))

    @on(Computed)
    def _computed(self, event: Computed) -> None:
        if event.turn == self.turn:
            self._show(*event.lines, failed=event.failed)

    def _show(self, line: str, source: str, *, failed: bool) -> None:
        outlook = self.query_one("#outlook", Static)
        outlook.update(("! " if failed else "") + line)
        outlook.set_class(failed, "warning")
        self.query_one("#source", Static).update(source)
