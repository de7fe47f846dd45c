"""Names and numbers as text in messages."""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


NAME_HINT = "Take letters, digits, spaces, - or _; / and \\ are not possible."
"""For a refused name of a run or folder."""


def printable(value: Path | str) -> str:
    """`value` as text for a terminal, valid in UTF-8.

    Bytes that are not UTF-8 become replacement characters; control characters and those that change the writing
    direction are escaped, so that a file name can't move the cursor or hide its extension.
    """
    try:
        raw = os.fsencode(value)
    except UnicodeEncodeError:
        raw = str(value).encode(errors="replace")
    text = raw.decode(errors="replace")
    return text if text.isprintable() else "".join(map(_escaped_control, text))


def _escaped_control(character: str) -> str:
    if character in _BIDI or unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs"):
        return character.encode("unicode_escape").decode()
    return character


def without_controls(text: str) -> str:
    """`text` with spaces for control characters, and without lone surrogates and characters that change the writing
    direction: text of another program must not move the cursor, hide words or break UTF-8."""
    kept = (
        " " if unicodedata.category(character) in ("Cc", "Zl", "Zp") and character not in "\n\t" else character
        for character in text
        if character not in _BIDI and unicodedata.category(character) != "Cs"
    )
    return "".join(kept)


def shell_word(value: Path | str) -> str:
    """`value` as one word of a POSIX shell command line, whatever its characters are.

    Unprintable characters are escaped for bash, zsh and ksh ($'\\n'), so that the line can be copied. A path that
    begins with a dash does not look like an option.
    """
    text = f"./{value}" if isinstance(value, Path) and str(value).startswith("-") else str(value)
    if printable(text) == text:
        return shlex.quote(text)
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(character: str) -> str:
    if character in "'\\":
        return f"\\{character}"
    if printable(character) == character:
        return character
    try:
        raw = os.fsencode(character)
    except UnicodeEncodeError:
        raw = b"?"
    return "".join(f"\\x{byte:02x}" for byte in raw)


def shell_line(words: Iterable[Path | str]) -> str:
    """A command line that can be copied into a shell."""
    return " ".join(map(shell_word, words))


def attach_line(run: Path) -> str:
    """The command that shows a run."""
    return shell_line(("lorasmith", "attach", run))


def resume_line(run: Path) -> str:
    """The command that continues a run."""
    return shell_line(("lorasmith", "resume", run))


def plural(count: int, noun: str) -> str:
    """ "1 image", "2 images", "3 batches", "4 copies", "5 epochs"."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith(("s", "x", "ch", "sh")) and not noun.endswith("epoch"):
        return f"{count} {noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}s"


def listing(names: Sequence[T], limit: int = 5, text: Callable[[T], str] = str) -> str:
    """ "a, b, c and 4 more".

    Args:
        text: how a name is shown; called for those that are.
    """
    first = ", ".join(map(text, names[:limit]))
    return f"{first} and {len(names) - limit} more" if len(names) > limit else first


def percent(share: float) -> str:
    """0.123 as "12 %"."""
    return f"{share * 100:z.0f} %"


def two_digits(number: float) -> str:
    """A number with two significant digits and no exponent: 171.4 as "170", 0.00042 as "0.00042"."""
    return f"{Decimal(f'{number:.2g}'):f}"


def size_text(size: float | None) -> str:
    """Bytes as "3.5 KiB", "3.5 MiB" or "11.6 GiB"; "unknown" for None."""
    if size is None:
        return "unknown"
    if 0 < size < 2**20 / 20:  # less would be 0.0 MiB
        return f"{size / 2**10:.1f} KiB"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """ "5 s", "3 min 5 s", "1 h 2 min": the two largest units."""
    total = max(0, round(seconds))
    hours, minutes = divmod(total // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {total % 60} s" if minutes else f"{total} s"
