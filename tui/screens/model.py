"""Model: the checkpoint to train on, and what it was recognised as."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, VerticalScroll
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Input, OptionList, Static

from engine.errors import LoraSmithError
from engine.families.fetch import fetchable
from engine.models.hub.cache import is_hub_id
from tui.screens.fetch import FetchScreen
from tui.screens.step import StepScreen
from tui.setup.demo import DEMO_BASE, follow_demo
from tui.setup.family_presets import propose
from tui.setup.model_finding import KEY, Finding, find
from tui.setup.recent import record_model
from tui.text.model import error_text, model_facts, model_title
from tui.texts import _
from tui.widgets.facts import Fact, Facts
from tui.widgets.frames import framed
from tui.widgets.known_models import KnownModels
from tui.widgets.lines import Lines
from tui.widgets.path_input import PathInput

if TYPE_CHECKING:
    from engine.config import RunConfig

PAUSE = 0.3
"""Seconds without a key before the model is recognised."""
VAE = "model.vae"
EXAMPLE = "stable-diffusion-v1-5/stable-diffusion-v1-5"


class ModelScreen(StepScreen):
    """Recognises the model when typing pauses."""

    STEP = "model"
    CSS_PATH = "model.tcss"
    AUTO_FOCUS = "#model"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+o", "fetch", _("Download"), tooltip=_("Download this model from Hugging Face."), priority=True),
    ]
    HELP = _(
        "# Model\n\nThe checkpoint that the LoRA is made for: a `.safetensors` file, or a folder in diffusers' "
        "layout. It is only read. Its family and prediction type are read from the file itself.\n\n"
        "FLUX.1 also comes as several files, as ComfyUI and Kohya have them: name the transformer here, and fields for "
        "the others appear.\n\n"
        "Below are the demo model and the ones you used last; Enter chooses one.\n\n"
        "A hub id such as `owner/name` works as well. A model that is not in the local Hugging Face cache is "
        "downloaded with Ctrl+O: the size is shown first, and nothing is downloaded without asking. In a shell: "
        "`lorasmith fetch owner/name`."
    )

    @dataclass
    class Recognised(Message):
        """The model was recognised, or refused."""

        finding: Finding

    def __init__(self) -> None:
        super().__init__()
        self._finding: Finding | None = None
        self._pause: Timer | None = None
        self._next_for: Mapping[str, str] | None = None
        """What was entered when Next was pressed before the model was recognised."""

    def compose_body(self) -> ComposeResult:
        """The fields, the list of models, and what was recognised."""
        from engine.config.form import fields

        with Horizontal(classes="row"):
            yield Static(_("Model"), classes="label")
            yield PathInput(
                self.draft.get(KEY) or "", id="model", suffixes=(".safetensors",), placeholder=_("a file or folder")
            )
        with Horizontal(classes="row"):
            yield Static("VAE", classes="label")
            yield PathInput(
                self.draft.get("model.vae") or "",
                id="vae",
                suffixes=(".safetensors",),
                placeholder=_("optional: another VAE than the model's own"),
            )
        for key in self._companions:
            folder = key.endswith("tokenizer")
            with Horizontal(classes="row companion"):
                yield Static(fields()[key].title, classes="label", markup=False)
                yield PathInput(
                    self.draft.get(key) or "",
                    id=_field(key),
                    folders_only=folder,
                    suffixes=() if folder else (".safetensors",),
                    placeholder=_("a folder; empty: the one in the cache") if folder else _("a file"),
                )
        with Container(id="models"):
            yield framed(KnownModels(id="known"), _("Models used before"))
            with framed(VerticalScroll(id="recognised"), _("This model")):
                yield Lines(id="verdict", wraps=True)
                yield Lines(id="objection", wraps=True)
                yield Facts(id="facts")
                yield Static(
                    _("A checkpoint of Stable Diffusion 1.5, SDXL or FLUX.1: a file or folder.")
                    + "\n"
                    + _("Or the id of a model on Hugging Face, which Ctrl+O downloads, such as:")
                    + f"\n{EXAMPLE}",
                    id="source",
                    markup=False,
                )

    def on_mount(self) -> None:
        """Highlight and recognise the model that is entered."""
        self.query_one(KnownModels).choose(self.model)
        self.look()

    @on(OptionList.OptionSelected, "#known")
    def _take_listed(self, event: OptionList.OptionSelected) -> None:
        field = self.query_one("#model", PathInput)
        field.value = self.query_one(KnownModels).models[event.option_index]
        field.cursor_position = len(field.value)
        self.look()

    @property
    def model(self) -> str:
        """The model as entered."""
        return self._entered("#model")

    @cached_property
    def _companions(self) -> tuple[str, ...]:
        """Keys of files that belong to the model, of every family."""
        from engine.families.registry import families

        return tuple(dict.fromkeys(key for family in families() for key in family.spec.companions))

    @property
    def entered(self) -> dict[str, str]:
        """Dotted key to the text of its field."""
        return {KEY: self.model} | {key: self._entered(f"#{_field(key)}") for key in (VAE, *self._companions)}

    def _entered(self, field: str) -> str:
        path = self.query_one(field, PathInput).path
        return str(path) if path is not None else ""

    def store(self) -> None:
        """Write the paths into the draft; a local model by its full path, because the run may start elsewhere."""
        self.draft.set(KEY, self._stored_model())
        for key in (VAE, *self._companions):
            path = self._entered(f"#{_field(key)}")
            self.draft.set(key, os.path.abspath(path) if path else None)  # noqa: PTH100 - no links followed
        follow_demo(self.draft, self._stored_model())
        finding = self._finding
        if finding is not None and finding.preset and finding.model == self.model != DEMO_BASE:
            propose(self.draft, finding.preset)

    def _stored_model(self) -> str:
        finding, model = self._finding, self.model
        if finding is None or finding.model != model or isinstance(finding.result, LoraSmithError):
            return model
        full = os.path.abspath(model)  # noqa: PTH100 - no links followed
        return full if full == os.path.abspath(finding.result.path) else model  # noqa: PTH100

    def problems(self) -> Iterable[str]:
        """No model, or none that can be trained."""
        if not self.model:
            yield _("Enter a model, or choose one below.")
        elif self._current is not None and self._current.trouble is not None:
            self.query_one("#model", PathInput).action_close_list()
            self._show(self._current)  # the reason is hidden while the list is open
            yield _("This cannot be used; see above.")

    @property
    def _current(self) -> Finding | None:
        """The finding for the fields as they are now; None while there is none."""
        finding = self._finding
        return finding if finding is not None and finding.entered == self.entered else None

    # From the hub

    @property
    def _on_hub(self) -> bool:
        """Whether what is entered cannot be used, and may be a model on the hub."""
        finding = self._current
        if finding is None or not isinstance(finding.result, LoraSmithError):
            return False
        return fetchable(self.model) and not os.path.lexists(self.model.partition("/")[0])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A download is offered for a model that is not here."""
        return self._on_hub if action == "fetch" else super().check_action(action, parameters)

    def action_fetch(self) -> None:
        """Show the size of the download, ask, download."""
        model = self.model

        def ended(path: Path | None) -> None:
            if path is None or self.model != model:
                return
            self._finding = None
            if is_hub_id(model):
                self.look()
            else:
                self.query_one("#model", PathInput).value = str(path)

        self.app.push_screen(FetchScreen(model), ended)

    # Recognising

    @on(Input.Changed)
    def _changed(self) -> None:
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(PAUSE, self.look)

    @on(Input.Blurred, "#model")
    def _left(self) -> None:
        """Show an error that was hidden while the path was typed."""
        self._show(self._current)

    @on(Input.Submitted)
    def _entered_path(self) -> None:
        """Enter recognises the model at once; for a recognised model it continues."""
        if self._current is not None and self._current.trouble is None:
            self.action_next()
        elif self._on_hub:
            self.action_fetch()
        else:
            self.look()

    def look(self) -> None:
        """Recognise what is entered, if that changed."""
        if self._pause is not None:
            self._pause.stop()
            self._pause = None
        if not self.model:
            self._finding = None
            self.workers.cancel_group(self, "recognise")
            self._show(None)
        elif self._current is None:
            self.query_one("#verdict", Lines).set_text(_("Reading the model …"))
            entered = self.entered
            values = {key: text or None for key, text in entered.items()}
            values["model.v_parameterization"] = self.draft.get("model.v_parameterization")
            tables: dict[str, dict[str, Any]] = {}
            for dotted, value in values.items():
                table, _dot, key = dotted.partition(".")
                tables.setdefault(table, {})[key] = value
            self._recognise(entered, self.draft.base().changed(**tables))

    @work(thread=True, exclusive=True, exit_on_error=False, group="recognise")
    def _recognise(self, entered: Mapping[str, str], config: RunConfig) -> None:
        self.post_message(self.Recognised(find(entered, config)))

    @on(Recognised)
    def _take_finding(self, event: Recognised) -> None:
        if event.finding.entered != self.entered:
            return
        self._finding = event.finding
        self._show(event.finding)
        if self._next_for == event.finding.entered:
            self._next_for = None
            self.action_next()

    def _show(self, finding: Finding | None) -> None:
        verdict, objection = self.query_one("#verdict", Lines), self.query_one("#objection", Lines)
        result = finding.result if finding is not None else None
        facts: list[Fact] = []
        verdict.set_class(isinstance(result, LoraSmithError), "error")
        self.query_one("#source").display = result is None
        if finding is not None:
            self.set_class(finding.in_parts, "-parts")
        if result is None:
            verdict.set_text("")
        elif isinstance(result, LoraSmithError):
            half_typed = self.query_one("#model", PathInput).list_open
            offer = "\n" + _("Ctrl+O looks for it on the hub, and downloads it if you agree.") if self._on_hub else ""
            verdict.set_text("" if half_typed else "✗ " + error_text(result) + offer)
        else:
            verdict.set_text("✓ " + model_title(result))
            facts = list(model_facts(result))
        self.query_one("#facts", Facts).set_facts(facts)
        problem = finding.objection if finding is not None else None
        if problem is not None or isinstance(result, LoraSmithError):
            self.not_done()
        objection.display = problem is not None
        objection.set_text("✗ " + error_text(problem) if problem is not None else "")
        self.set_message("")
        self.refresh_bindings()

    def leave(self) -> None:
        """Continue once the model is recognised."""
        if self._current is None:
            self.draft.done.remove(self.STEP)
            self._next_for = self.entered
            self.set_message(_("Reading the model …"))
            self.look()
            return
        if self.model != DEMO_BASE:
            trouble = record_model(self._stored_model())
            if trouble is not None:
                self.notify(trouble, severity="warning", markup=False)
        super().leave()


def _field(key: str) -> str:
    """The id of a key's input."""
    return key.removeprefix("model.").replace(".", "-")
