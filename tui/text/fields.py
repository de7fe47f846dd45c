"""The texts of a setting: its range, its effect on VRAM, its explanation. Draws nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.cells import set_cell_size

from engine.config import RunConfig
from engine.config.change import read_change
from engine.config.form import FieldFacts, fields, unit, value_text
from engine.text import printable
from tui.setup.draft import STEP_OF
from tui.setup.preset_reasons import preset_reasons
from tui.text.cells import clipped
from tui.texts import _

if TYPE_CHECKING:
    from tui.widgets.form import Form


KEY = re.compile(rf"\b(?:{'|'.join(RunConfig.model_fields)})\.[a-z_0-9]+")
"""A dotted key in a sentence."""


def cut(text: str, width: int, *, keep_end: bool = False) -> str:
    """`text` in exactly `width` cells, the last one free; an ellipsis where something is left out."""
    return set_cell_size(clipped(text, width - 1, keep_end=keep_end), width)


_REPEATED = re.compile(r"\b([\w-]+(?: [\w-]+)?) \(\1\)", re.IGNORECASE)


def hint(facts: FieldFacts) -> str:
    """The text after the value: the step of another step's field, else the range."""
    if facts.key in STEP_OF:
        return _("step {0}").format(step_title(STEP_OF[facts.key]))
    return facts.limits


def step_title(name: str) -> str:
    """The title of a step of the wizard."""
    from tui.screens.steps import STEPS

    return next(step.title for step in STEPS if step.name == name)


def with_titles(sentence: str) -> str:
    """A sentence of the engine with the titles of settings instead of their keys: for a screen with their fields. A key
    in brackets that only repeats its title goes: "T5-XXL (flux.t5xxl)"."""
    titled = KEY.sub(lambda match: _(facts.title) if (facts := fields().get(match[0])) else match[0], sentence)
    return _REPEATED.sub(r"\1", titled)


def change_text(text: str) -> str:
    """A change during the training as words: "U-Net rate 5e-05 from step 201"."""
    change = read_change(text)
    facts = fields()[change.key]
    value = f"{value_text(facts, change.value)} {unit(facts, change.value)}".rstrip()
    return printable(_("{0} {1} from step {2}").format(_(facts.title), value, change.step + 1))


def vram_text(facts: FieldFacts) -> str:
    """How the field affects VRAM, as a sentence; empty if it does not."""
    if not facts.vram:
        return ""
    if facts.kind == "flag":
        return _("VRAM when switched on: {0}.").format(facts.vram)
    if facts.kind in ("integer", "number", "size") and facts.vram in ("more", "much more", "less", "much less"):
        return _("VRAM when raised: {0}.").format(facts.vram)
    return _("VRAM: {0}.").format(facts.vram)


def explain(form: Form, key: str) -> str:
    """A field in markdown, for the help screen."""
    facts = fields()[key]
    lines = [f"## {_(facts.title)}", f"`{key}`", _(facts.help) if facts.help else "", vram_text(facts)]
    if reason := preset_reasons(form.draft.preset).get(key):
        lines.append(_("Why the preset has its value: {0}.").format(reason.rstrip(".")))
    if facts.limits:
        lines.append(_("Range: {0}.").format(f"{facts.limits} {facts.unit}".strip()))
    if facts.choices:
        lines.append(_("Choices: {0}.").format(", ".join(f"`{value_text(facts, choice)}`" for choice in facts.choices)))
    lines.append(
        _("Preset: `{0}`. Default: `{1}`.").format(form.preset_text(key), value_text(facts, facts.default) or " ")
    )
    return "\n\n".join(line for line in lines if line)
