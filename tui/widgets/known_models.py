"""The demo's model and those that were used before, to choose from."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from textual import on, work
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.text import printable
from tui.setup.demo import DEMO_BASE
from tui.setup.recent import gone, recent_models
from tui.text.cells import clipped
from tui.texts import _


class KnownModels(OptionList):
    """Marks the models that do not exist now."""

    @dataclass
    class Missing(Message):
        """Models of the list that do not exist now."""

        models: set[str]

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False)
        self.models: list[str] = []
        """In the order of the list."""

    def choose(self, model: str) -> None:
        """List the models, and highlight this one."""
        self.models = [DEMO_BASE, *(known for known in recent_models() if known != DEMO_BASE)]
        self._list(set())
        self.highlighted = self.models.index(model) if model in self.models else 0
        self._find_missing(self.models)

    def _list(self, missing: set[str]) -> None:
        for number, model in enumerate(self.models):
            title = _("Demo model that comes with the program (tiny, to try everything)")
            if model != DEMO_BASE:
                sign = _("✗ not there: {0}") if model in missing else "{0}"
                room = self.app.size.width - cell_len(sign) - 1
                title = sign.format(clipped(printable(model), room, keep_end=True))
            if number >= self.option_count:
                self.add_option(Option(title))
            else:
                self.replace_option_prompt_at_index(number, title)

    @work(thread=True, exclusive=True, exit_on_error=False, group="missing")
    def _find_missing(self, models: list[str]) -> None:
        self.post_message(self.Missing(gone(models)))

    @on(Missing)
    def _mark_missing(self, event: Missing) -> None:
        if event.models:
            self._list(event.models)
