"""The steps of the wizard, in order."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tui.texts import _

if TYPE_CHECKING:
    from tui.screens.step import StepScreen


@dataclass(frozen=True)
class Step:
    """One step: its name in the draft and its title. Its screen is tui.screens.<name>.<Name>Screen."""

    name: str
    title: str

    def screen(self) -> StepScreen:
        """A new screen; its module is imported now."""
        module = importlib.import_module(f"tui.screens.{self.name}")
        screen: StepScreen = getattr(module, f"{self.name.capitalize()}Screen")()
        return screen


STEPS = (
    Step("hardware", _("Hardware")),
    Step("model", _("Model")),
    Step("folders", _("Folders")),
    Step("captions", _("Captions")),
    Step("parameters", _("Parameters")),
    Step("review", _("Review")),
)
RUN_STEPS = (Step("dashboard", _("Train")), Step("results", _("Results")))
"""Shown after the steps: they are screens of a run, not of the draft."""


def position(name: str) -> int:
    """0-based place of a step among all eight."""
    return next(index for index, step in enumerate((*STEPS, *RUN_STEPS)) if step.name == name)
