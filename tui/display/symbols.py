"""Characters for bars and charts: blocks and braille, or ASCII where the terminal's font has no others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLE = "LORASMITH_ASCII"
"""Set to 1 or 0, it decides."""
_PLAIN = ("linux", "vt", "ansi", "cons")
"""Beginnings of TERM where only ASCII can be relied on: consoles, and terminals older than Unicode."""
_LEVELS = {1: "'", 2: "-", 3: "-", 4: "_"}


@dataclass(frozen=True)
class Symbols:
    """The characters of one kind of terminal."""

    ascii: bool
    full: str
    empty: str
    mark: str
    tick: str
    edge: str
    corner: str
    smoothed: str
    raw: str
    levels: str
    """Of a curve in one row, from low to high."""

    def bar(self, filled: int, cells: int) -> str:
        """A bar of `cells`, of which some are filled."""
        return self.full * filled + self.empty * (cells - filled)

    def cell(self, bits: int) -> str:
        """A cell of a chart with these dots, two by four, as braille counts them."""
        return _ascii_cell(bits) if self.ascii else chr(0x2800 + bits)


BLOCKS = Symbols(False, "━", "─", "●", "┤", "│", "└", "━", "⣿", "▁▂▃▄▅▆▇█")
ASCII = Symbols(True, "#", "-", "@", "+", "|", "+", "-", ".", "_.-=+*#@")


def symbols(environment: Mapping[str, str] = os.environ) -> Symbols:
    """Those for this terminal."""
    chosen = environment.get(VARIABLE, "")
    if chosen in ("0", "1"):
        return ASCII if chosen == "1" else BLOCKS
    terminal = environment.get("TERM", "")
    return ASCII if terminal.startswith(_PLAIN) else BLOCKS


def _ascii_cell(bits: int) -> str:
    """The height of the dots in the cell: high, in the middle, low; or a stroke where they take most of it."""
    rows = [row for row, mask in enumerate((0x09, 0x12, 0x24, 0xC0), 1) if bits & mask]
    if not rows:
        return " "
    return "|" if rows[-1] - rows[0] > 1 else _LEVELS[rows[0]]
