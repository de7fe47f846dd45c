"""The options of captions from a fixed text."""

from __future__ import annotations

import re

from pydantic import field_validator, model_validator

from engine.captioning.options import CaptionOptions
from engine.config.fields import setting

FIELD = re.compile(r"\{(\w+)\}")
FIELDS = ("trigger", "folder", "name")


class TemplateOptions(CaptionOptions):
    """A text in which a few words are replaced for each picture."""

    template: str = setting(
        "{folder}",
        "Text",
        "{trigger}: the trigger word, in this place. {folder}: the folder's name without its repeats. {name}: the "
        "picture's name.",
        min_length=1,
    )

    @field_validator("template")
    @classmethod
    def _known_fields(cls, value: str) -> str:
        if unknown := [name for name in FIELD.findall(value) if name not in FIELDS]:
            known = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise ValueError(f"a text with no other fields than {known}, and not {{{unknown[0]}}}")
        return value

    @model_validator(mode="after")
    def _trigger_is_there(self) -> TemplateOptions:
        if self.places_trigger and not self.trigger_word.strip():
            raise ValueError("the text has {trigger}, and no trigger word is given")
        return self

    @property
    def places_trigger(self) -> bool:
        """Whether the text has the trigger word where the person wants it."""
        return "trigger" in FIELD.findall(self.template)
