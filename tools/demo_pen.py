"""The brush of the demo's drawn world: palettes, and polygons on a 4x supersampled sheet."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw

SIZE = 64
SUPERSAMPLE = 4
INK = (44, 38, 52)
OUTLINE = 1.9

RGB = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, RGB] = {
    "red": (224, 52, 52),
    "orange": (246, 140, 38),
    "yellow": (250, 214, 56),
    "green": (66, 176, 72),
    "blue": (58, 108, 228),
    "purple": (146, 74, 202),
    "pink": (246, 118, 180),
    "brown": (142, 90, 54),
    "white": (248, 248, 244),
    "gray": (138, 143, 150),
}
BACKGROUNDS: dict[str, RGB] = {
    "red": (236, 112, 106),
    "orange": (250, 184, 118),
    "yellow": (252, 236, 150),
    "green": (164, 220, 148),
    "blue": (150, 196, 246),
    "purple": (200, 170, 236),
    "pink": (252, 198, 222),
    "brown": (188, 152, 122),
    "white": (250, 250, 250),
    "gray": (192, 196, 202),
}


class Pen:
    """Paints polygons given in a figure's own units onto a supersampled canvas."""

    def __init__(self, canvas: ImageDraw.ImageDraw, centre: Point, scale: float, tilt: float = 0.0) -> None:
        self.canvas = canvas
        self.centre = centre
        self.scale = scale
        self.cos, self.sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))

    def place(self, points: Sequence[Point]) -> list[Point]:
        """Figure units to canvas pixels."""
        placed: list[Point] = []
        for x, y in points:
            across = self.centre[0] + self.scale * (x * self.cos - y * self.sin)
            down = self.centre[1] + self.scale * (x * self.sin + y * self.cos)
            placed.append((across * SUPERSAMPLE, down * SUPERSAMPLE))
        return placed

    def shape(self, points: Sequence[Point], fill: RGB, outline: float = OUTLINE) -> None:
        """A filled polygon with an ink outline `outline` pixels wide (0: none)."""
        placed = self.place(points)
        self.canvas.polygon(placed, fill=fill)
        if outline:
            width = round(outline * SUPERSAMPLE)
            self.canvas.line([*placed, placed[0], placed[1]], fill=INK, width=width, joint="curve")

    def disc(self, x: float, y: float, rx: float, ry: float, fill: RGB, outline: float = OUTLINE) -> None:
        """An ellipse."""
        self.shape(arc(x, y, rx, ry, 0, 360), fill, outline)

    def stroke(self, points: Sequence[Point], colour: RGB = INK, width: float = 2.2) -> None:
        """An open line `width` pixels wide with round ends."""
        placed = self.place(points)
        radius = width * SUPERSAMPLE / 2
        self.canvas.line(placed, fill=colour, width=round(2 * radius), joint="curve")
        for x, y in (placed[0], placed[-1]):
            self.canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> list[Point]:
    """Points on an ellipse from `start` to `end` degrees (clockwise on the screen)."""
    count = max(6, round(abs(end - start) / 9))
    angles = [math.radians(start + (end - start) * i / count) for i in range(count + 1)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def soft_box(w: float, h: float, radius: float, y: float = 0.0) -> list[Point]:
    """A box of half-width `w` and half-height `h` with rounded corners."""
    corners = ((w, h, 0), (-w, h, 90), (-w, -h, 180), (w, -h, 270))
    points: list[Point] = []
    for cx, cy, start in corners:
        inner = (cx - math.copysign(radius, cx), y + cy - math.copysign(radius, cy))
        points += arc(*inner, radius, radius, start, start + 90)
    return points


def blend(a: RGB, b: RGB, t: float) -> RGB:
    """A colour `t` of the way from `a` to `b`."""
    return (round(a[0] + (b[0] - a[0]) * t), round(a[1] + (b[1] - a[1]) * t), round(a[2] + (b[2] - a[2]) * t))


def canvas(background: RGB) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A supersampled sheet and the brush for it."""
    sheet = Image.new("RGB", (SIZE * SUPERSAMPLE, SIZE * SUPERSAMPLE), background)
    return sheet, ImageDraw.Draw(sheet)


def scribble(rng: random.Random) -> Image.Image:
    """An image outside the world, for the VAE: a few flat shapes in any colours."""

    def paint() -> RGB:
        return (rng.randrange(256), rng.randrange(256), rng.randrange(256))

    sheet, brush = canvas(paint())
    for _ in range(rng.randint(2, 6)):
        centre = (rng.uniform(6, 58), rng.uniform(6, 58))
        pen = Pen(brush, centre, rng.uniform(4, 20), rng.uniform(0, 360))
        outline = OUTLINE if rng.random() < 0.6 else 0.0
        match rng.randrange(4):
            case 0:
                pen.disc(0, 0, 1, rng.uniform(0.5, 1), paint(), outline)
                if rng.random() < 0.6:
                    pen.disc(0, 0, 0.6, 0.6, paint(), 0)
            case 1:
                pen.shape(soft_box(1, rng.uniform(0.3, 1), 0.15), paint(), outline)
            case 2:
                pen.shape([(rng.uniform(-1, 1), rng.uniform(-1, 1)) for _ in range(3)], paint(), outline)
            case _:
                pen.stroke(arc(0, 0, 1, 0.6, 0, rng.uniform(60, 200)), paint(), rng.uniform(1.8, 4))
    return sheet.reduce(SUPERSAMPLE)
