"""The current step of the wizard: one line, readable without colour."""

from __future__ import annotations

from collections.abc import Collection

from rich.text import Text
from textual.widgets import Static

from tui.display.symbols import symbols
from tui.screens.steps import RUN_STEPS, STEPS, position
from tui.texts import _


class StepBar(Static):
    """All eight steps with the current one marked; on a narrow terminal its place and title only.

    Args:
        current: name of the step that is shown.
        done: names of the steps that are done.
    """

    def __init__(self, current: str, done: Collection[str] = ()) -> None:
        super().__init__()
        self.current, self.done = current, done

    def show(self, done: Collection[str]) -> None:
        """Other steps are done."""
        self.done = tuple(done)
        self.refresh()

    def render(self) -> Text:
        """✓ done, ▸ here."""
        steps = (*STEPS, *RUN_STEPS)
        done = "*" if symbols().ascii else "✓"  # before a word, the letter for ✓ would look like a part of it
        text = Text(no_wrap=True)
        for step in steps:
            here = step.name == self.current
            mark = "▸" if here else done if step.name in self.done else " "
            text.append(f"{mark}{step.title}", "bold reverse" if here else "" if step.name in self.done else "dim")
            text.append(" ")
        if text.cell_len > self.size.width:
            place = position(self.current)
            words = _("Step {0} of {1}: {2}").format(place + 1, len(steps), steps[place].title)
            return Text(words, "bold")
        return text
