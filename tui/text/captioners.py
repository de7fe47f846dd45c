"""The captioners and their options, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.captioning.captioner import KINDS, Kind
from engine.captioning.options import CaptionOptions
from engine.config.form import FieldFacts, facts_of
from tui.shell.output import wrapped
from tui.texts import _

_OPTIONS = {
    "trigger_word": "  (--trigger)", "allow_download": "  (--download)",
    **{name: f"  (--{name})" for name in ("model", "url", "prompt", "template", "existing")},
}  # fmt: skip
"""Options of the captioner that the command has its own option for; the others are set with --set."""


def about_captioners() -> Iterator[str]:
    """A line for each captioner."""
    width = max(map(len, KINDS))
    for kind in KINDS.values():
        yield f"{kind.name:{width}}  {kind.title}: {_(kind.about)}"


def about_options(kind: Kind) -> Iterator[str]:
    """Each option of a captioner with its default, and below it its help, within 80 columns."""
    ordered = in_order(kind.options)
    for facts in ordered:
        limits = " ".join(filter(None, (facts.limits, facts.unit)))
        allowed = ", ".join(str(choice) for choice in facts.choices) or limits
        words = " ".join(filter(None, (f"{_(facts.title)}.", _(facts.help), f"({allowed})" if allowed else "")))
        yield f"{facts.key} = {_value(facts.default)}{_OPTIONS.get(facts.key, '')}"
        yield from wrapped(words, 80, "    ")


def in_order(options: type[CaptionOptions]) -> list[FieldFacts]:
    """The order in a form: the captioner's own options, shared ones, advanced ones."""
    shared = CaptionOptions.model_fields
    return sorted(facts_of(options), key=lambda facts: (facts.advanced, facts.key in shared))


def _value(value: Any) -> str:
    return (
        "yes" if value is True else "no" if value is False else f'"{value}"' if isinstance(value, str) else str(value)
    )
