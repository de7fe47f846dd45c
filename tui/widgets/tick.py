"""A checkbox that can be read without colour."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Checkbox


class Tick(Checkbox):
    """[x] or [ ], one row."""

    DEFAULT_CSS = "Tick, Tick:focus { border: none; padding: 0; background: transparent; height: 1; }"

    @property
    def _button(self) -> Content:
        return Content("[x]" if self.value else "[ ]")
