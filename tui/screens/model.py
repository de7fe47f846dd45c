"""Model: which checkpoint is trained on, and what it was recognised as."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from engine.errors import LoraSmithError
from engine.models.fetch import fetchable
from engine.models.hub.cache import is_hub_id
from engine.paths import ASSETS
from engine.text import printable, size_text
from tui.configuration import DEMO
from tui.draft import FIRST_PRESET, Draft
from tui.family_presets import preset_for, propose
from tui.recent import gone, recent_models, remember_model
from tui.screens.fetch import FetchScreen
from tui.screens.step import StepScreen
from tui.texts import _
from tui.widgets.facts import Fact, Facts
from tui.widgets.lines import Lines
from tui.widgets.path_input import PathInput
from tui.words.cells import clipped

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.models.base import Recognition

PAUSE = 0.3
"""Seconds without a key before the model is looked at."""
DEMO_BASE = str(ASSETS / "demo_base")
MODEL = "pretrained_model_name_or_path"
KEY = f"model.{MODEL}"
EXAMPLE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
BEFORE_DEMO = "model.before_demo"
"""In the draft's extras: the settings that the demo took the place of."""


@dataclass(frozen=True)
class Finding:
    """What a look at the fields gave."""

    entered: Mapping[str, str]
    """Key of `[model]` to what its field said then."""
    result: Recognition | LoraSmithError
    objection: LoraSmithError | None = None
    """The model is known, and something that is set does not go with it."""
    preset: str = ""
    """What is proposed for it."""
    in_parts: bool = False
    """It is one of several files; the others are asked for."""

    @property
    def model(self) -> str:
        """The model that was looked at."""
        return self.entered[MODEL]

    @property
    def trouble(self) -> LoraSmithError | None:
        """What keeps one from going on."""
        return self.result if isinstance(self.result, LoraSmithError) else self.objection


class ModelScreen(StepScreen):
    """Recognises the model as the path settles."""

    STEP = "model"
    CSS_PATH = "model.tcss"
    AUTO_FOCUS = "#model"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "ctrl+o", "fetch", _("Download"), tooltip=_("Fetch this model from the Hugging Face hub."), priority=True
        ),
    ]
    HELP = _(
        "# Model\n\nThe checkpoint that the LoRA is made for: a `.safetensors` file, or a folder in diffusers' "
        "layout. It is only read. Its family and prediction type are read from the file itself.\n\n"
        "FLUX.1 also comes as several files, as ComfyUI and Kohya have them: name the transformer here, and fields for "
        "the others appear.\n\n"
        "Below stand the demo model and the ones you used last; Enter takes one.\n\n"
        "A hub id such as `owner/name` works as well. A model that is not in the local Hugging Face cache is "
        "downloaded with Ctrl+O: the size is told first, and nothing comes unasked. On the command line: "
        "`lorasmith fetch owner/name`."
    )

    @dataclass
    class Recognised(Message):
        """The fields were looked at."""

        finding: Finding

    @dataclass
    class Missing(Message):
        """Known models that are not there now."""

        models: set[str]

    def __init__(self) -> None:
        super().__init__()
        self._finding: Finding | None = None
        self._pause: Timer | None = None
        self._going_on: Mapping[str, str] | None = None
        """What was entered when Next was asked while it was still looked at."""
        self._known: list[str] = []

    def compose_body(self) -> ComposeResult:
        """The fields, what is known already, and what was recognised."""
        from engine.config.schema import ModelTable

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
        for key in self._beside:
            folder = key.endswith("tokenizer")
            with Horizontal(classes="row beside"):
                yield Static(ModelTable.model_fields[key].title or key, classes="label", markup=False)
                yield PathInput(
                    self.draft.get(f"model.{key}") or "",
                    id=key,
                    folders_only=folder,
                    suffixes=() if folder else (".safetensors",),
                    placeholder=_("a folder; empty: the one in the cache") if folder else _("a file"),
                )
        yield OptionList(id="known", markup=False)
        with VerticalScroll(id="found"):
            yield Lines(id="verdict", wraps=True)
            yield Lines(id="objection", wraps=True)
            yield Facts(id="facts")
            yield Static(
                _("A checkpoint of Stable Diffusion 1.5, SDXL or FLUX.1: a file or folder.")
                + "\n"
                + _("Or an id on the hub, which Ctrl+O downloads, as:")
                + f"\n{EXAMPLE}",
                id="source",
                markup=False,
            )

    def on_mount(self) -> None:
        """List what is known, look at what is there already."""
        self._known = [DEMO_BASE, *(model for model in recent_models() if model != DEMO_BASE)]
        self._list_known(set())
        model = self.model
        self.query_one("#known", OptionList).highlighted = self._known.index(model) if model in self._known else 0
        self._find_missing(self._known)
        self.look()

    @property
    def model(self) -> str:
        """The model as entered."""
        return self._entered("#model")

    @cached_property
    def _beside(self) -> tuple[str, ...]:
        """Keys of `[model]` that name a file beside the model's, of every family."""
        from engine.models.registry import families

        return tuple(dict.fromkeys(key for family in families() for key in family.beside))

    @property
    def entered(self) -> dict[str, str]:
        """Key of `[model]` to what stands in its field."""
        return {MODEL: self.model} | {key: self._entered(f"#{key}") for key in ("vae", *self._beside)}

    def _entered(self, field: str) -> str:
        path = self.query_one(field, PathInput).path
        return str(path) if path is not None else ""

    def store(self) -> None:
        """The paths; a local model by its full path, because the run may start elsewhere."""
        self.draft.set(KEY, self._stored_model())
        for key in ("vae", *self._beside):
            path = self._entered(f"#{key}")
            self.draft.set(f"model.{key}", os.path.abspath(path) if path else None)  # noqa: PTH100 - no links followed
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
            yield _("Name a model, or take one of the list.")
        elif self._current is not None and self._current.trouble is not None:
            yield _("This cannot be used; see above.")

    @property
    def _current(self) -> Finding | None:
        """What was found for the fields as they are now; None while that is not known."""
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
        """A download is offered for what is not here."""
        return self._on_hub if action == "fetch" else super().check_action(action, parameters)

    def action_fetch(self) -> None:
        """Tell what the download takes, ask, download."""
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

    # Known models

    def _list_known(self, missing: set[str]) -> None:
        listed = self.query_one("#known", OptionList)
        for number, model in enumerate(self._known):
            title = _("Demo model that comes with the program (tiny, to try everything)")
            if model != DEMO_BASE:
                sign = _("✗ not there: {0}") if model in missing else "{0}"
                room = self.app.size.width - cell_len(sign) - 1
                title = sign.format(clipped(printable(model), room, keep_end=True))
            if number >= listed.option_count:
                listed.add_option(Option(title))
            else:
                listed.replace_option_prompt_at_index(number, title)

    @work(thread=True, exclusive=True, exit_on_error=False, group="missing")
    def _find_missing(self, models: list[str]) -> None:
        self.post_message(self.Missing(gone(models)))

    @on(Missing)
    def _mark_missing(self, event: Missing) -> None:
        if event.models:
            self._list_known(event.models)

    @on(OptionList.OptionSelected, "#known")
    def _take_known(self, event: OptionList.OptionSelected) -> None:
        field = self.query_one("#model", PathInput)
        field.value = self._known[event.option_index]
        field.cursor_position = len(field.value)
        self.look()

    # Recognising

    @on(Input.Changed)
    def _changed(self) -> None:
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(PAUSE, self.look)

    @on(Input.Blurred, "#model")
    def _left(self) -> None:
        """What was no model while it was typed is wrong now."""
        self._show(self._current)

    @on(Input.Submitted)
    def _entered_path(self) -> None:
        """Enter looks at once; when it is known already, Enter goes on."""
        if self._current is not None and self._current.trouble is None:
            self.action_next()
        elif self._on_hub:
            self.action_fetch()
        else:
            self.look()

    def look(self) -> None:
        """Recognise what is entered, if it is something else than was looked at."""
        if self._pause is not None:
            self._pause.stop()
            self._pause = None
        if not self.model:
            self._finding = None
            self.workers.cancel_group(self, "recognise")
            self._show(None)
        elif self._current is None:
            self.query_one("#verdict", Lines).say(_("Looking at the model …"))
            entered = self.entered
            table = {key: text or None for key, text in entered.items()}
            table["v_parameterization"] = self.draft.get("model.v_parameterization")
            self._recognise(entered, self.draft.base().changed(model=table))

    @work(thread=True, exclusive=True, exit_on_error=False, group="recognise")
    def _recognise(self, entered: Mapping[str, str], config: RunConfig) -> None:
        from engine.hardware import list_gpus
        from engine.models.registry import family_named, recognise

        try:
            recognition = recognise(entered[MODEL])
        except LoraSmithError as error:
            self.post_message(self.Recognised(Finding(entered, error)))
            return
        family, objection = family_named(recognition.family), None
        try:
            family.check(config, recognition)
        except LoraSmithError as error:
            objection = error
        preset = preset_for(recognition, list_gpus().visible())
        in_parts = bool(family.beside) and recognition.layout == "single_file"
        self.post_message(self.Recognised(Finding(entered, recognition, objection, preset, in_parts)))

    @on(Recognised)
    def _take_finding(self, event: Recognised) -> None:
        if event.finding.entered != self.entered:
            return
        self._finding = event.finding
        self._show(event.finding)
        if self._going_on == event.finding.entered:
            self._going_on = None
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
            verdict.say("")
        elif isinstance(result, LoraSmithError):
            half_typed = self.query_one("#model", PathInput).list_open
            offer = "\n" + _("Ctrl+O looks for it on the hub, and downloads it if you wish.") if self._on_hub else ""
            verdict.say("" if half_typed else "✗ " + _told(result) + offer)
        else:
            verdict.say("✓ " + _title(result))
            facts = list(_facts(result))
        self.query_one("#facts", Facts).say(facts)
        objected = finding.objection if finding is not None else None
        objection.display = objected is not None
        objection.say("✗ " + _told(objected) if objected is not None else "")
        self.say("")
        self.refresh_bindings()

    def leave(self) -> None:
        """Go on when it is known what the model is."""
        if self._current is None:
            self.draft.done.remove(self.STEP)
            self._going_on = self.entered
            self.say(_("Looking at the model …"))
            self.look()
            return
        if self.model != DEMO_BASE:
            trouble = remember_model(self._stored_model())
            if trouble is not None:
                self.notify(trouble, severity="warning", markup=False)
        super().leave()


def follow_demo(draft: Draft, model: str) -> None:
    """With the demo model comes the demo's preset, which also chooses the device; what was before comes back later."""
    before = draft.extras.get(BEFORE_DEMO)
    if model == DEMO_BASE and draft.preset == FIRST_PRESET:
        draft.extras[BEFORE_DEMO] = {"memory.device": draft.values.pop("memory.device", None)}
        draft.choose_preset(DEMO)
    elif model and model != DEMO_BASE and before is not None:
        del draft.extras[BEFORE_DEMO]
        if draft.preset == DEMO:
            draft.choose_preset(FIRST_PRESET)
            if before["memory.device"] is not None and "memory.device" not in draft.values:
                draft.set("memory.device", before["memory.device"])


def _told(error: LoraSmithError) -> str:
    return "\n".join(printable(line) for line in f"{error.message}\n{error.hint}".strip().split("\n"))


def _title(recognition: Recognition) -> str:
    from engine.models.registry import family_named

    return family_named(recognition.family).title


def _facts(recognition: Recognition) -> Iterator[Fact]:
    """What is known of a model, and from where."""
    layouts = {"single_file": _("one file"), "diffusers": _("folder in diffusers' layout")}
    yield _("Kind"), layouts[recognition.layout]
    yield _("Weights"), _("{0}, {1} on disk").format(recognition.dtype, size_text(recognition.size))
    snr = _("zero terminal SNR") if recognition.zero_terminal_snr else _("no zero terminal SNR")
    yield _("Predicts"), f"{recognition.prediction_type}, {snr}"
    yield _("Path"), printable(recognition.path)
    yield _("Why"), "\n".join(printable(reason) for reason in recognition.reasons)
