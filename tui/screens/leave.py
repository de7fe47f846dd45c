"""Leaving while a run is training."""

from __future__ import annotations

from tui.screens.ask import AskScreen
from tui.texts import _


class LeaveScreen(AskScreen):
    """Asks what to do with the run: "detach", "stop" (with everything saved), or "cancel"."""

    def __init__(self, name: str, *, paused: bool = False) -> None:
        detach = _("Detach: leave, the training stays paused") if paused else _("Detach: leave, the training continues")
        answers = {
            "detach": detach,
            "stop": _("Stop and save: finish the step, save everything, end the training"),
            "cancel": _("Cancel: stay here"),
        }
        super().__init__((_("{0} is paused") if paused else _("{0} is training")).format(name), answers)
