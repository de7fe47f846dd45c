"""Starting the screen: only in a terminal that can show one, and back to the shell with an honest exit code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from engine.errors import UsageError

if TYPE_CHECKING:
    from engine.runs import RunDir
    from tui.app import Appearance


def refusal() -> str | None:
    """Why no screen can be shown here; None when one can."""
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.__stderr__ is not None and sys.__stderr__.isatty()):
        return "The screen needs a terminal for input and output."
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        return "TERM says that this terminal cannot place characters."
    return None


def require_terminal() -> None:
    """Refuse to start where no screen can be shown.

    Raises:
        UsageError: no terminal, or a dumb one.
    """
    why = refusal()
    if why is not None:
        raise UsageError(
            why, "Without a screen: lorasmith --preset NAME --images DIR --model FILE, or lorasmith attach RUN --plain."
        )


def show(run_dir: RunDir | None = None, appearance: Appearance | None = None) -> int:
    """Run the app until it is left; the exit code for this process.

    Raises:
        UsageError: this is no terminal that can show it.
    """
    require_terminal()
    if appearance is not None and appearance.low_bandwidth:
        # Textual reads these when it is imported.
        os.environ.update(TEXTUAL_FPS="5", TEXTUAL_ANIMATIONS="none", TEXTUAL_SMOOTH_SCROLL="0")
    from tui.app import LoraSmithApp

    app = LoraSmithApp(run_dir, appearance)
    value = app.run(mouse=appearance is None or appearance.mouse)
    return int(value or app.return_code or 0)
