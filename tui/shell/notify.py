"""Bell and desktop notification (OSC 9) when a watched run has ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.text import without_controls
from tui.setup.user_config import read_user_config
from tui.shell import output
from tui.texts import _

if TYPE_CHECKING:
    from textual.app import App

    from engine.runs import RunDir

VARIABLE = "LORASMITH_NOTIFY"
_OFF = ("off", "0", "no", "false")


def enabled(environment: Mapping[str, str] = os.environ) -> bool:
    """False where the person switched notifications off: by the variable, else in the file of defaults."""
    if VARIABLE in environment:
        return environment[VARIABLE].strip().lower() not in _OFF
    try:
        return read_user_config().screen.notify is not False
    except UsageError:  # the file was broken since the start; the end of a run is no place to say so
        return True


def sequence(text: str) -> str:
    """A bell, and the notification that iTerm2, Windows Terminal, kitty, WezTerm, ghostty and others show; other
    terminals drop it."""
    return f"\x1b]9;{without_controls(text)[:200]}\x1b\\\a"


def on_terminal(run_dir: RunDir, code: int) -> None:
    """Notify on stdout of a command that followed a run, where that is a terminal."""
    if not enabled() or not output.is_terminal(sys.stdout) or os.environ.get("TERM", "dumb") == "dumb":
        return
    words: dict[int, str] = {ExitCode.DONE: _("finished"), ExitCode.STOPPED: _("stopped")}
    how = words.get(code, _("failed"))
    sys.stdout.write(sequence(f"LoRA Smith: {run_dir.name} {how}"))
    sys.stdout.flush()


def on_screen(app: App[object], text: str) -> None:
    """Notify on the terminal of a screen; nothing where there is none, as in tests."""
    driver = app._driver  # Textual's own way for OSC 52, which has no public name for another sequence
    if driver is not None and not app.is_headless and enabled():
        driver.write(sequence(text))
