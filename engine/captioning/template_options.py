"""The options of captions from a fixed text."""

from __future__ import annotations

import re

from pydantic import field_validator, model_validator
from typing_extensions import override

from engine.captioning.options import CaptionOptions
from engine.config.fields import setting

FIELD = re.compile(r"\{(\w+)\}")
FIELDS = ("trigger", "folder", "name")


class TemplateOptions(CaptionOptions):
    """A text with placeholders that are replaced for each image."""

    template: str = setting(
        "{folder}",
        "Text",
        "{trigger}: the trigger word. {folder}: the folder's name without its repeats. {name}: the image's name.",
        min_length=1,
    )

    @field_validator("template")
    @classmethod
    def _known_fields(cls, value: str) -> str:
        if unknown := [name for name in FIELD.findall(value) if name not in FIELDS]:
            fields = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise ValueError(f"a text with no other fields than {fields}, not {{{unknown[0]}}}")
        return value

    @model_validator(mode="after")
    def _trigger_is_set(self) -> TemplateOptions:
        if self.places_trigger and not self.trigger_word.strip():
            raise ValueError("the text has {trigger}, but no trigger word is set")
        return self

    @property
    @override
    def places_trigger(self) -> bool:
        """Whether the text has {trigger}."""
        return "trigger" in FIELD.findall(self.template)
