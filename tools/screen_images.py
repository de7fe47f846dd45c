"""A screen's drawing (SVG) in pixels, with cairo."""

from __future__ import annotations

import html
import io
import re
from itertools import groupby

from PIL import Image

CELL = (12.2, 24.4)
"""Width and height of a letter in Textual's drawing."""
SCALE = 12 / CELL[0]
"""Cells of whole pixels: cairo rounds the width of a letter to one."""
RISE = 18.5
"""From the base line of a letter up to the top of its cell."""
BRAILLE = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))
"""(across, down) of each bit of a Braille letter."""
THIN, THICK = 0.8, 1.5
"""Half the width of a line."""
RADIUS = 5.0
LINES = {"─": THIN, "━": THICK, "│": THIN}
CORNERS = {"╭": (1, 1), "╮": (-1, 1), "╰": (1, -1), "╯": (-1, -1)}
"""To which side of the middle a corner's lines go: right is 1, down is 1."""
_SHAPES = "▁▂▃▄▅▆▇█" + "".join(LINES) + "".join(CORNERS)
_TEXT = re.compile(
    r'<text class="([\w-]+)" x="([\d.]+)" y="([\d.]+)"([^>]*)>'
    rf"([^<]*[\u2801-\u28ff{_SHAPES}][^<]*)</text>"
)


def image(svg: str) -> Image.Image:
    """The drawing in pixels, RGB."""
    import cairosvg

    return Image.open(io.BytesIO(cairosvg.svg2png(bytestring=shaped(svg).encode(), scale=SCALE))).convert("RGB")


def png(svg: str) -> bytes:
    """The image in few colours, which a screen has anyway."""
    out = io.BytesIO()
    image(svg).quantize(256).save(out, "PNG", optimize=True)
    return out.getvalue()


def shaped(svg: str) -> str:
    """Braille, blocks and lines as shapes: the font has no Braille, and leaves gaps between blocks and lines."""
    return _TEXT.sub(_with_shapes, svg)


def _with_shapes(match: re.Match[str]) -> str:
    style, left, base, rest, text = match.groups()
    letters, shapes, x = html.unescape(text), [], float(left)
    for letter, group in groupby(letters):
        width = CELL[0] * len(list(group))
        shapes += _shapes_of(letter, x, float(base) - RISE, width)
        x += width
    plain = re.sub(f"[\u2801-\u28ff{_SHAPES}]", "\u00a0", letters)
    drawn = "".join(f'<{name} class="{style}" {attributes}/>' for name, attributes in shapes)
    return f'<text class="{style}" x="{left}" y="{base}"{rest}>{html.escape(plain)}</text>{drawn}'


def _shapes_of(letter: str, x: float, top: float, width: float) -> list[tuple[str, str]]:
    """(element, attributes) for a row of equal letters; empty for others than those that are drawn."""
    if "\u2801" <= letter <= "\u28ff":
        count = round(width / CELL[0])
        return [dot for place in range(count) for dot in _dots(letter, x + CELL[0] * place, top)]
    if "▁" <= letter <= "█":
        height = CELL[1] * (ord(letter) - ord("▁") + 1) / 8
        return [_rectangle(x, top + CELL[1] - height, width, height + 0.25)]
    half = LINES.get(letter)
    if letter == "│":
        middles = [x + CELL[0] * (place + 0.5) for place in range(round(width / CELL[0]))]
        return [_rectangle(middle - THIN, top, 2 * THIN, CELL[1] + 0.25) for middle in middles]
    if half is not None:
        return [_rectangle(x, top + CELL[1] / 2 - half, width, 2 * half)]
    return [_corner(x, top, *CORNERS[letter])] if letter in CORNERS else []


def _dots(letter: str, left: float, top: float) -> list[tuple[str, str]]:
    bits = ord(letter) - 0x2800
    return [
        (
            "circle",
            f'cx="{left + CELL[0] * (0.27 + 0.46 * across):.2f}" '
            f'cy="{top + RISE + CELL[1] * (down * 0.25 - 0.63):.2f}" r="1.6"',
        )
        for number, (across, down) in enumerate(BRAILLE)
        if bits >> number & 1
    ]


def _rectangle(x: float, y: float, width: float, height: float) -> tuple[str, str]:
    place = f'x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"'
    return "rect", f'{place} shape-rendering="crispEdges"'


def _corner(left: float, top: float, across: int, down: int) -> tuple[str, str]:
    """A round corner, filled between its outer and inner edge."""
    x, y = left + CELL[0] / 2, top + CELL[1] / 2
    side, end = x + across * CELL[0] / 2, y + down * CELL[1] / 2
    outer_x, inner_x = x - across * THIN, x + across * THIN
    outer_y, inner_y = y - down * THIN, y + down * THIN
    bend_x, bend_y = x + across * RADIUS, y + down * RADIUS
    edge = (
        f"M{outer_x:.2f} {end:.2f}V{bend_y:.2f}Q{outer_x:.2f} {outer_y:.2f} {bend_x:.2f} {outer_y:.2f}H{side:.2f}"
        f"V{inner_y:.2f}H{bend_x:.2f}Q{inner_x:.2f} {inner_y:.2f} {inner_x:.2f} {bend_y:.2f}V{end:.2f}Z"
    )
    return "path", f'd="{edge}"'
