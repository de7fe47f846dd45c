"""A real terminal for tests: a pseudo-terminal with a program in it, and a screen that shows what it writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence

import pyte

_UNKNOWN_TO_PYTE = re.compile(rb"\x1b\[[<>=][0-9;]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p")
SECONDS = 30.0
CELL = (10, 20)
"""Pixels of a cell."""


class Terminal:
    """Runs `command` with a terminal of `columns` × `rows` as its controlling one.

    Everything the program has written is in `raw`; `text` is the text on the screen.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], columns: int = 80, rows: int = 24
    ) -> None:
        self.raw = b""
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._controller, line = os.openpty()
        self._line = os.dup(line)  # kept open, so that what was set there can be read after the program's end
        _set_size(line, columns, rows)
        self.settings = termios.tcgetattr(line)
        self.process = subprocess.Popen(
            list(command), stdin=line, stdout=line, stderr=line, env=dict(environment), start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(line)

    @property
    def text(self) -> str:
        """The screen, a line for each row."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def read(self, seconds: float = 0.05) -> bool:
        """Take what the program writes within `seconds`; False when there was nothing."""
        if not select.select([self._controller], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._controller, 65536)
        except OSError:  # the program's end has closed it
            return False
        self.raw += data
        self._stream.feed(_UNKNOWN_TO_PYTE.sub(b"", data))
        return bool(data)

    def until(self, condition: Callable[[], object], seconds: float = SECONDS) -> None:
        """Show what is written until `condition` is true; fails after `seconds`."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"did not come true in time; the screen:\n{self.text}"
            self.read()

    def until_shown(self, *texts: str, seconds: float = SECONDS) -> None:
        """Wait until all `texts` stand on the screen."""
        for text in texts:
            self.until(lambda text=text: text in self.text, seconds)  # type: ignore[misc]

    def until_gone(self, text: str) -> None:
        """Wait until `text` is not on the screen any more."""
        self.until(lambda: text not in self.text)

    def send(self, keys: str | bytes) -> None:
        """Type."""
        os.write(self._controller, keys.encode() if isinstance(keys, str) else keys)

    def mouse(self, button: int, text: str, *, row: int = 0, released: bool = False) -> None:
        """Report the mouse on the first cell of `text` (xterm's SGR form), or `row` rows below: 0 is the left button,
        35 a move, 64 and 65 the wheel up and down."""
        y = next(y for y, line in enumerate(self.screen.display) if text in line)
        x = self.screen.display[y].index(text)
        self.send(f"\x1b[<{button};{x + 1};{y + 1 + row}{'m' if released else 'M'}")

    def click(self, text: str) -> None:
        """Press and release the left button on `text`."""
        self.mouse(0, text)
        self.mouse(0, text, released=True)

    def style(self, text: str) -> tuple[str, str, bool, bool, bool]:
        """How the first cell of `text` is drawn: colour, background, bold, underlined, reversed."""
        y = next(y for y, line in enumerate(self.screen.display) if text in line)
        cell = self.screen.buffer[y][self.screen.display[y].index(text)]
        return cell.fg, cell.bg, cell.bold, cell.underscore, cell.reverse

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size, as dragging its window does."""
        self.screen.resize(rows, columns)
        _set_size(self._controller, columns, rows)

    def hang_up(self) -> None:
        """Close the terminal, as a dropped line or a closed window does."""
        for name in ("_controller", "_line"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def wait(self, seconds: float = SECONDS) -> int:
        """The exit code, at the program's end."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, f"did not end in time; the screen:\n{self.text}"
            if self._controller >= 0:
                self.read()
            else:
                time.sleep(0.02)
        while self._controller >= 0 and self.read(0.2):
            pass
        return self.process.returncode

    @property
    def restored(self) -> bool:
        """Whether the terminal is as it was: first screen, visible cursor, no mouse reports, its own line settings."""
        pairs = [(b"?1049h", b"?1049l"), (b"?25l", b"?25h"), (b"?1000h", b"?1000l"), (b"?2004h", b"?2004l")]
        modes = all(self.raw.rfind(on) < self.raw.rfind(off) or on not in self.raw for on, off in pairs)
        return modes and termios.tcgetattr(self._line) == self.settings

    def close(self) -> None:
        """End what is left."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.hang_up()


def _set_size(descriptor: int, columns: int, rows: int) -> None:
    pixels = (columns * CELL[0], rows * CELL[1])
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, *pixels))
