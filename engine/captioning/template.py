"""Captions from a fixed text: no model, no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from engine.captioning.captioner import Answer, Captioner, Subject
from engine.captioning.template_options import FIELD, TemplateOptions
from engine.types import Log

_REPEATS = re.compile(r"[0-9]{1,6}_(?=.)")


class Template(Captioner):
    """Replaces {trigger}, {folder} and {name} in a text."""

    name: ClassVar[str] = "template"
    needs_pixels: ClassVar[bool] = False

    @override
    def load(self, options: TemplateOptions, log: Log) -> None:
        self.options = options

    @override
    def describe(self, subjects: Sequence[Subject]) -> list[Answer]:
        return [self._filled(subject.path) for subject in subjects]

    def _filled(self, path: Path) -> str:
        words = {
            "trigger": self.options.trigger_word.strip(),
            "folder": _REPEATS.sub("", path.parent.absolute().name, count=1).replace("_", " "),
            "name": path.stem.replace("_", " "),
        }
        return FIELD.sub(lambda match: words[match[1]], self.options.template)
