"""Setting up the demo: its model and images are in the wizard, ready to be trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.screens.steps import STEPS
from tui.setup.demo import DEMO, DEMO_BASE
from tui.setup.model_finding import KEY
from tui.texts import _

if TYPE_CHECKING:
    from tui.app import LoraSmithApp

FIRST_STEP = "model"
"""The demo's preset has set the device."""


def start_demo(app: LoraSmithApp) -> None:
    """Open the wizard with the demo's model; with an unfinished setup, ask first."""
    from tui.screens.ask import AskScreen

    if not app.draft.unfinished:
        _begin(app)
        return
    answers = {"no": _("Keep it"), "yes": _("Discard it and start the demo")}
    question = _("You have an unfinished setup: {0}").format(app.draft.title)
    app.push_screen(AskScreen(question, answers), lambda answer: _begin(app) if answer == "yes" else None)


def _begin(app: LoraSmithApp) -> None:
    app.draft.start_over({KEY: DEMO_BASE}, preset=DEMO)
    names = [step.name for step in STEPS]
    app.draft.done = names[: names.index(FIRST_STEP)]
    app.go_to(FIRST_STEP)
