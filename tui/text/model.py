"""The texts of the step Model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.errors import LoraSmithError
from engine.text import printable, size_text
from tui.text.fields import with_titles
from tui.texts import _

if TYPE_CHECKING:
    from engine.types import Recognition
    from tui.widgets.facts import Fact


def error_text(error: LoraSmithError) -> str:
    """Its message and hint, a line each, with the titles of the fields."""
    text = with_titles(f"{error.message}\n{error.hint}".strip())
    return "\n".join(printable(line) for line in text.split("\n"))


def model_title(recognition: Recognition) -> str:
    """The title of its family."""
    from engine.families.registry import family_named

    return family_named(recognition.family).spec.title


def model_facts(recognition: Recognition) -> Iterator[Fact]:
    """What was recognised of a model, and how."""
    layouts = {"single_file": _("one file"), "diffusers": _("folder in diffusers' layout")}
    yield _("Kind"), layouts[recognition.layout]
    yield _("Weights"), _("{0}, {1} on disk").format(recognition.dtype, size_text(recognition.size))
    snr = _("zero terminal SNR") if recognition.zero_terminal_snr else _("no zero terminal SNR")
    yield _("Predicts"), f"{recognition.prediction_type}, {snr}"
    yield _("Path"), printable(recognition.path)
    yield _("Why"), "\n".join(printable(reason) for reason in recognition.reasons)
