"""Weights in captions, in A1111's syntax: `(word)`, `(word:1.3)`, `[word]` (facts: sd-scripts `strategy_base.py`)."""

from __future__ import annotations

import re

_ROUND, _SQUARE = 1.1, 1 / 1.1
_PIECE = re.compile(r"\\[()\[\]\\]|\\|[(\[]|:([+-]?(?:\d+\.?\d*|\.\d+))\)|[)\]]|[^\\()\[\]:]+|:")


def weighted_parts(text: str) -> list[tuple[str, float]]:
    """The parts of a caption without brackets, each with its weight; neighbours of equal weight are one part.

    `(a)` weighs 1.1, `(a:1.3)` 1.3, `[a]` 1 / 1.1; nested ones are multiplied. An open bracket without its end counts
    up to the end of the caption, and an end alone is text. A backslash before a bracket or another backslash makes it
    text; any other backslash is dropped.
    """
    parts: list[tuple[str, float]] = []
    open_at: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        start = open_at[bracket].pop()
        parts[start:] = [(part, weight * factor) for part, weight in parts[start:]]

    for match in _PIECE.finditer(text):
        piece, number = match.group(), match.group(1)
        if piece.startswith("\\"):
            parts.append((piece[1:], 1.0))
        elif piece in open_at:
            open_at[piece].append(len(parts))
        elif piece.endswith(")") and open_at["("]:
            close("(", _ROUND if number is None else float(number))
        elif piece == "]" and open_at["["]:
            close("[", _SQUARE)
        else:
            parts.append((piece, 1.0))
    while open_at["("]:
        close("(", _ROUND)
    while open_at["["]:
        close("[", _SQUARE)
    joined: list[tuple[str, float]] = []
    for part, weight in parts:
        if joined and joined[-1][1] == weight:
            joined[-1] = joined[-1][0] + part, weight
        else:
            joined.append((part, weight))
    return joined or [("", 1.0)]
