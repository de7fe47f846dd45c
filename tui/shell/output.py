"""Results go to stdout, messages to stderr; both take any file name."""

from __future__ import annotations

import codecs
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from engine.errors import LoraSmithError
from engine.text import printable


def prepare_streams() -> None:
    """Make the streams write undecodable file names as their bytes, and "?" for what the encoding lacks."""
    codecs.register_error("lorasmith", _encode_anything)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="lorasmith")


def _encode_anything(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    codes = [ord(character) for character in error.object[error.start : error.end]]
    return b"".join(bytes([code - 0xDC00]) if 0xDC80 <= code <= 0xDCFF else b"?" for code in codes), error.end


def result(text: str | Path) -> None:
    """Print one line of the result on stdout."""
    print(text, flush=True)


def json_result(value: Any) -> None:
    """Print one JSON object on stdout."""
    result(json.dumps(value, indent=1, default=str))


def message(text: str) -> None:
    """Print one line on stderr: what happens."""
    print(text, file=sys.stderr, flush=True)


def show_error(error: LoraSmithError) -> None:
    """Print title, sentence and hint on stderr."""
    message(f"{error.title}: {_lines(error.message)}")
    if error.hint:
        message(f"hint: {_lines(error.hint)}")


def _lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def is_terminal(stream: TextIO) -> bool:
    """Whether a line there can be redrawn."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def width(stream: TextIO) -> int:
    """Columns of the terminal behind `stream`; 80 where there is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def counter(doing: str) -> Callable[[int, int], None]:
    """A function that prints (done, total) on stderr, where that is a terminal and the work takes long."""
    printed_at, drawn = time.monotonic(), False

    def report(done: int, total: int) -> None:
        nonlocal printed_at, drawn
        if done == total:
            words = "\r\x1b[K" if drawn else ""
        elif is_terminal(sys.stderr) and time.monotonic() - printed_at > 0.5:
            printed_at, drawn = time.monotonic(), True
            words = f"\r\x1b[K{doing}: {done} of {total}"
        else:
            return
        sys.stderr.write(words)
        sys.stderr.flush()

    return report


def counters() -> Callable[[str, int, int], None]:
    """The same for several kinds of work, one after the other: the function prints (what, done, total)."""
    report: Callable[[int, int], None] | None = None
    current = ""

    def report_kind(what: str, done: int, total: int) -> None:
        nonlocal report, current
        if report is None or what != current:
            report, current = counter(what), what
        report(done, total)

    return report_kind


def width_of_result() -> int:
    """Columns that results may take."""
    return width(sys.stdout)


def wrapped(text: str, width: int, indent: str = "", further: str | None = None) -> list[str]:
    """Lines of at most `width` columns, except for longer words; those after the first are indented by `further`."""
    rest = indent if further is None else further
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
