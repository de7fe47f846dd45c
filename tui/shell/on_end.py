"""`--on-end COMMAND`: splitting the typed command into words."""

from __future__ import annotations

import shlex
import shutil

from engine.errors import UsageError
from engine.text import printable


def parse_command(typed: str | None) -> tuple[str, ...]:
    """The words of a command as a POSIX shell splits them; no shell runs it. Empty where nothing was typed.

    Raises:
        UsageError: no words, an open quotation mark, or no such program.
    """
    if typed is None:
        return ()
    try:
        words = shlex.split(typed)
    except ValueError as error:
        raise UsageError(
            f"--on-end: {printable(typed)} cannot be split into words: {error}.",
            "Close it.",
            code="on-end-not-possible",
        ) from None
    if not words or not words[0]:
        raise UsageError(
            "--on-end: there is no command.", 'Give one: --on-end "notify-send done"', code="on-end-without-command"
        )
    if shutil.which(words[0]) is None:
        raise UsageError(
            f"--on-end: there is no program {printable(words[0])}.",
            "Give its path. No shell runs it: for pipes and variables write sh -c '…'.",
            code="on-end-program-missing",
        )
    return tuple(words)
