"""Images in a terminal: two pixels a cell, by the upper half block with a colour above and one below."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Literal

from PIL import Image

Depth = Literal["truecolor", "256"]
_LEVELS = (0, 95, 135, 175, 215, 255)


def depth(environment: Mapping[str, str] = os.environ, encoding: str | None = None) -> Depth | None:
    """Which colours the terminal has; None where images cannot be drawn (dumb, NO_COLOR, no Unicode)."""
    terminal = environment.get("TERM", "dumb")
    try:
        "▀".encode(encoding or sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return None
    if "NO_COLOR" in environment or terminal == "dumb":
        return None
    return "truecolor" if environment.get("COLORTERM", "").lower() in ("truecolor", "24bit") else "256"


def render(image: Image.Image, columns: int, colours: Depth) -> list[str]:
    """`image` as lines of `columns` cells, in its own proportions."""
    rows = max(1, round(columns * image.height / image.width / 2))
    pixels = image.convert("RGB").resize((columns, rows * 2), Image.Resampling.LANCZOS).tobytes()

    def colour(x: int, y: int, ground: int) -> str:
        at = (y * columns + x) * 3
        red, green, blue = pixels[at : at + 3]
        if colours == "truecolor":
            return f"{ground};2;{red};{green};{blue}"
        return f"{ground};5;{nearest(red, green, blue)}"

    return [
        "".join(f"\x1b[{colour(x, 2 * row, 38)};{colour(x, 2 * row + 1, 48)}m▀" for x in range(columns)) + "\x1b[0m"
        for row in range(rows)
    ]


def nearest(red: int, green: int, blue: int) -> int:
    """The colour of the 256 that is nearest: one of the 6×6×6 cube or of the 24 greys."""
    steps = [min(range(6), key=lambda level: abs(_LEVELS[level] - value)) for value in (red, green, blue)]
    cube = tuple(_LEVELS[step] for step in steps)
    grey = min(23, max(0, round(((red + green + blue) / 3 - 8) / 10)))
    level = 8 + 10 * grey
    target = (red, green, blue)
    distances = [
        sum((a - b) ** 2 for a, b in zip(target, candidate, strict=True)) for candidate in (cube, (level, level, level))
    ]
    return 16 + 36 * steps[0] + 6 * steps[1] + steps[2] if distances[0] <= distances[1] else 232 + grey


def side_by_side(left: list[str], right: list[str], gap: str = "  ") -> list[str]:
    """Two images of equal height side by side."""
    return [a + gap + b for a, b in zip(left, right, strict=True)]
