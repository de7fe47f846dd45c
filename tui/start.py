"""Starting the screen in a terminal that can show it, and returning an exit code to the shell."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.text import attach_line
from tui.display import symbols
from tui.setup.user_config import read_user_config
from tui.shell import output

if TYPE_CHECKING:
    from engine.runs import RunDir
    from tui.app import LoraSmithApp

HELP_WITHOUT_SCREEN = (
    "Without a screen: lorasmith --preset NAME --images DIR --model FILE, or lorasmith attach RUN --plain."
)


def refusal() -> str | None:
    """Why no screen can be shown here; None when one can."""
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    if not all(stream is not None and not stream.closed and stream.isatty() for stream in streams):
        return "The screen needs a terminal for input and output."
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        return "By its TERM, this terminal cannot place characters."
    return None


def require_terminal() -> None:
    """Refuse to start where no screen can be shown.

    Raises:
        UsageError: no terminal, or a dumb one.
    """
    why = refusal()
    if why is not None:
        raise UsageError(why, HELP_WITHOUT_SCREEN, code="no-screen")


def show(
    run_dir: RunDir | None = None,
    *,
    images: str | None = None,
    mouse: bool | None = None,
    low_bandwidth: bool | None = None,
    ascii_only: bool | None = None,
    prefill: Mapping[str, str] | None = None,
) -> int:
    """Run the app until it is left; the exit code for this process. What is None is as in the person's own file.

    Args:
        run_dir: a run whose dashboard is shown at once.
        images: one of IMAGE_MODES.
        mouse: False leaves the mouse to the terminal, for its own selecting and pasting.
        low_bandwidth: fewer frames, no images unless `images` asks for them.
        ascii_only: charts and bars of ASCII characters, whatever TERM is.
        prefill: dotted key to value, for the wizard.

    Raises:
        UsageError: this terminal cannot show it, there are no such images or colours, or the person's own file is
            wrong.
    """
    require_terminal()
    for fixed in ("COLUMNS", "LINES"):  # they would override the terminal's real size
        os.environ.pop(fixed, None)
    config = read_user_config()
    own = config.screen
    images = images or own.images or "auto"
    mouse = mouse if mouse is not None else own.mouse is not False
    low_bandwidth = low_bandwidth if low_bandwidth is not None else bool(own.low_bandwidth)
    if ascii_only is None and symbols.VARIABLE not in os.environ:
        ascii_only = own.ascii
    if ascii_only is not None:
        os.environ[symbols.VARIABLE] = str(int(ascii_only))
    if low_bandwidth:
        # Textual reads these when it is imported.
        os.environ.update(TEXTUAL_FPS="5", TEXTUAL_ANIMATIONS="none", TEXTUAL_SMOOTH_SCROLL="0")
    if images in ("sixel", "kitty"):
        load_protocol()
    from tui.app import Appearance, LoraSmithApp

    _check_theme()
    if config.keys:
        from tui.display.own_keys import bind_own_keys

        bind_own_keys(config.keys)
    app = LoraSmithApp(run_dir, Appearance(images, mouse, low_bandwidth, own.theme))
    if prefill:
        for key, value in prefill.items():
            app.draft.set(key, value)
        app.first_step = app.draft.step
    app.run(mouse=mouse)
    for line in app.farewell:
        output.message(line)
    return _exit_code(app)


def _exit_code(app: LoraSmithApp) -> int:
    if app.return_code is not None and app.return_code != ExitCode.TRAINING_FAILED:
        return app.return_code
    output.message("LoRA Smith crashed. Any running training continues.")
    if app.watched is not None:
        output.message(f"Back to it with:\n  {attach_line(app.watched.path)}")
    return ExitCode.TRAINING_FAILED


def _check_theme() -> None:
    from tui.display.themes import theme_names

    theme, names = os.environ.get("LORASMITH_THEME"), theme_names()
    if theme and theme not in names:
        raise UsageError(
            f"LORASMITH_THEME={theme}: there is no such theme.", f"Themes: {', '.join(names)}.", code="theme-unknown"
        )


def load_protocol() -> None:
    """Import the library for Sixel and Kitty images. It queries the terminal when it is imported, so before
    Textual reads the input; wait for all answers, or late ones would be typed into the first field.

    Raises:
        UsageError: it is not installed.
    """
    import logging

    logging.getLogger("textual_image").setLevel(logging.ERROR)  # a terminal that does not answer is no traceback
    try:
        import textual_image.widget  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "textual_image":
            raise
        raise UsageError(
            "Sixel and Kitty images need the library textual-image, which is not installed.",
            "Install it with: pip install 'lorasmith[images]'. Or leave out --images: half blocks need nothing.",
            code="images-library-missing",
        ) from None
    _await_answers()


def _await_answers(seconds: float = 2.0) -> None:
    """Send a query that every terminal answers, and drop everything up to that answer: terminals answer in order."""
    import select
    import termios
    import time
    import tty

    terminal = sys.stdin.fileno()
    before: list[Any] = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        os.write(sys.stdout.fileno(), b"\x1b[c")
        answer, end = b"", time.monotonic() + seconds
        while b"c" not in answer and select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0]:
            answer += os.read(terminal, 1024)
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
