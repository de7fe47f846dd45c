"""Textual's driver for Linux and macOS, made to survive what terminals do over SSH and in tmux."""

from __future__ import annotations

import os
import re
import selectors
import sys
from codecs import getincrementaldecoder
from pathlib import Path
from typing import IO, Any, Final, cast

import textual
from textual._xterm_parser import XTermParser
from textual.app import App
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver

KNOWN_TEXTUAL: Final = "8.2.8"
"""The version whose input thread `SturdyDriver` replaces; another one runs with its own driver."""
_X10: Final = re.compile(rb"\x1b\[M[\x20-\xff]{3}", re.DOTALL)
_INCOMPLETE: Final = re.compile(rb"\x1b\[M[\x20-\xff]{0,2}\Z", re.DOTALL)


class InputBytes:
    """Decodes bytes from the terminal.

    After a tmux attach some terminals send mouse reports in the oldest form (ESC [ M and three bytes, which are no
    UTF-8 beyond column 95). They are dropped, and any other byte that is no UTF-8 becomes a replacement character.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._decode = getincrementaldecoder("utf-8")(errors="replace").decode

    def text(self, data: bytes, *, final: bool = False) -> str:
        """The text of `data`; half a report or half a character is kept for the next bytes."""
        clean = _X10.sub(b"", self._rest + data)
        incomplete = None if final else _INCOMPLETE.search(clean)
        self._rest = clean[incomplete.start() :] if incomplete else b""
        return self._decode(clean[: len(clean) - len(self._rest)], final)


class _Output:
    """stderr for the driver's writer thread, which must not die when the terminal is gone: writes are dropped then."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._gone = False

    def write(self, text: str) -> None:
        if not self._gone:
            try:
                self._file.write(text)
            except (OSError, ValueError):
                self._gone = True

    def flush(self) -> None:
        if not self._gone:
            try:
                self._file.flush()
            except (OSError, ValueError):
                self._gone = True

    def fileno(self) -> int:
        return self._file.fileno()


class SturdyDriver(LinuxDriver):
    """Accepts any byte, and calls the app's `terminal_gone` at the end of the input instead of spinning."""

    def __init__(self, app: App[Any], **options: Any) -> None:
        super().__init__(app, **options)
        self._file = cast("Any", _Output(cast("IO[str]", sys.__stderr__)))

    def run_input_thread(self) -> None:
        """Read, decode, parse, dispatch, until the app ends or the terminal is gone."""
        incoming, parser = InputBytes(), XTermParser(self._debug)
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                if selector.select(0.1):
                    data = self._read()
                    if not data:
                        self._loop.call_soon_threadsafe(cast("Any", self._app).terminal_gone)
                        return
                    text = incoming.text(data)
                    for message in parser.feed(text) if text else ():  # "" would end the parser
                        self.process_message(message)
                for message in parser.tick():
                    self.process_message(message)

    def _read(self) -> bytes:
        try:
            return os.read(self.fileno, 4096)
        except OSError:  # EIO: the other end has hung up
            return b""


def driver_class() -> type[Driver] | None:
    """The driver to run with; None for Textual's own."""
    # textual.__version__ would read the metadata of the distribution: a tenth of the time to the first paint.
    installed = Path(textual.__file__).parents[1] / f"textual-{KNOWN_TEXTUAL}.dist-info"
    return SturdyDriver if installed.is_dir() and sys.platform != "win32" else None
