"""Captions from a fixed text: no model, no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from engine.captioning.captioner import Answer, Captioner, Say, Subject
from engine.captioning.template_options import FIELD, TemplateOptions

_REPEATS = re.compile(r"[0-9]{1,6}_(?=.)")


class Template(Captioner):
    """{trigger}, {folder} and {name} are replaced; nothing else is."""

    name: ClassVar[str] = "template"
    sees: ClassVar[bool] = False

    def load(self, options: TemplateOptions, say: Say) -> None:
        """Nothing has to be loaded."""
        self.options = options

    def describe(self, pictures: Sequence[Subject]) -> list[Answer]:
        """The text for each picture."""
        return [self._filled(picture.path) for picture in pictures]

    def _filled(self, path: Path) -> str:
        words = {
            "trigger": self.options.trigger_word.strip(),
            "folder": _REPEATS.sub("", path.parent.absolute().name, count=1).replace("_", " "),
            "name": path.stem.replace("_", " "),
        }
        return FIELD.sub(lambda match: words[match[1]], self.options.template)
