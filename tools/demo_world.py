"""The demo's drawn world: flat 64x64 cartoon images of creatures and plain objects.

Everything is a pure function of a `random.Random`: `sample_scene` picks the attributes and `draw_scene` paints them
(4x supersampled, then box-filtered down); `demo_captions.describe` words them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from demo_pen import (
    BACKGROUNDS,
    COLOURS,
    INK,
    RGB,
    SIZE,
    SUPERSAMPLE,
    Pen,
    Point,
    arc,
    blend,
    canvas,
    soft_box,
)
from PIL import Image, ImageDraw

SHAPES = ("round", "square", "tall", "wide", "triangle")
TOPS = ("none", "horns", "antennae", "ears", "hat")
FEET = ("none", "feet", "boots")
MOUTHS = ("none", "smile", "frown", "open", "teeth")
PATTERNS = ("none", "spots", "belly", "stripe")
SIZES = ("small", "big")
POSITIONS = ("left", "centre", "right")
OBJECTS = ("house", "tree", "star", "heart", "car", "fish", "flower", "mushroom", "boat", "balloon", "cup", "moon")

VOWELS = "aeiou"
ONSETS: tuple[str, ...] = (
    "b",
    "br",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "sk",
    "t",
)
ONSETS += ("tr", "v", "w", "z", "zw")
CODAS = ("b", "d", "g", "k", "l", "lt", "m", "mp", "n", "nk", "p", "r", "t", "x", "z")


@dataclass(frozen=True)
class Scene:
    """One image's attributes; `kind` is "creature" or one of `OBJECTS`, lengths are in pixels, `tilt` in degrees."""

    kind: str
    colour: str
    background: str
    size: str
    position: str
    centre: Point
    scale: float
    tilt: float
    shape: str = "round"
    eyes: int = 2
    top: str = "none"
    top_colour: str = "red"
    feet: str = "none"
    feet_colour: str = "red"
    mouth: str = "none"
    pattern: str = "none"
    name: str = ""
    companion: str = ""
    companion_colour: str = "red"


# ---------------------------------------------------------------------------------------------------- creatures

BODY: dict[str, tuple[float, float]] = {
    "round": (1.0, 1.0),
    "square": (0.92, 0.92),
    "tall": (0.72, 1.12),
    "wide": (1.3, 0.78),
    "triangle": (1.12, 1.02),
}


def body_points(shape: str) -> list[Point]:
    """The outline of a creature's body."""
    w, h = BODY[shape]
    if shape == "round":
        return arc(0, 0, w, h, 0, 360)
    if shape == "triangle":
        top = arc(0, -h + 0.3, 0.3, 0.3, 200, 340)
        return [*top, *arc(w - 0.25, h - 0.25, 0.25, 0.25, -20, 90), *arc(-w + 0.25, h - 0.25, 0.25, 0.25, 90, 200)]
    return soft_box(w, h, 0.18 if shape == "square" else 0.5)


def draw_top(pen: Pen, scene: Scene, body: RGB) -> None:
    """What sits on the head, drawn before the body so that the body covers its foot."""
    w, h = BODY[scene.shape]
    reach = 0.28 if scene.shape == "triangle" else 0.55 * w
    base = -h + (0.3 if scene.shape in ("round", "triangle") else 0.15)
    for side in (-1, 1):
        x = side * reach
        if scene.top == "horns":
            pen.shape([(x - 0.24, base), (x + side * 0.22, base - 0.75), (x + 0.24, base)], (250, 240, 208))
        elif scene.top == "antennae":
            tip = (x + side * 0.22, base - 0.68)
            pen.stroke([(x * 0.7, base), tip])
            pen.disc(*tip, 0.2, 0.2, INK, 0)
        elif scene.top == "ears":
            pen.disc(x * 1.15, base - 0.1, 0.36, 0.44, body)


def draw_hat(pen: Pen, scene: Scene) -> None:
    """A top hat, over the body."""
    h = BODY[scene.shape][1]
    colour = COLOURS[scene.top_colour]
    foot = -h + 0.08
    pen.shape([(-0.42, foot), (-0.42, foot - 0.62), (0.42, foot - 0.62), (0.42, foot)], colour)
    pen.shape([(-0.75, foot + 0.1), (-0.75, foot - 0.1), (0.75, foot - 0.1), (0.75, foot + 0.1)], colour)


def draw_feet(pen: Pen, scene: Scene, body: RGB) -> None:
    """Feet or boots, drawn before the body."""
    w, h = BODY[scene.shape]
    for side in (-1, 1):
        x = side * 0.5 * w
        if scene.feet == "feet":
            pen.disc(x + side * 0.06, h + 0.08, 0.36, 0.24, body)
        elif scene.feet == "boots":
            draw_boot(pen, x, h - 0.1, side, COLOURS[scene.feet_colour])


def draw_boot(pen: Pen, x: float, y: float, side: int, colour: RGB) -> None:
    """One boot under (x, y) with its toe to `side`."""
    toe, heel, shin = x + side * 0.5, x - side * 0.22, x + side * 0.2
    pen.shape([(heel, y), (heel, y + 0.5), (toe, y + 0.5), (toe, y + 0.28), (shin, y + 0.2), (shin, y)], colour)


def draw_pattern(pen: Pen, scene: Scene, body: RGB) -> None:
    """Spots, a light belly or a dark stripe."""
    w, h = BODY[scene.shape]
    if scene.pattern == "belly":
        pen.disc(0, 0.52 * h, 0.55 * w, 0.4 * h, blend(body, (255, 255, 255), 0.55), 0)
    elif scene.pattern == "stripe":
        half = w * (0.78 if scene.shape == "round" else 0.8 if scene.shape == "triangle" else 0.97)
        pen.shape([(-half, 0.5 * h), (-half, 0.78 * h), (half, 0.78 * h), (half, 0.5 * h)], blend(body, INK, 0.55), 0)
    elif scene.pattern == "spots":
        for x, y in ((-0.55, 0.5), (0.55, 0.6), (0.62, -0.12), (-0.64, -0.1)):
            pen.disc(x * w * 0.85, y * h, 0.19, 0.19, blend(body, INK, 0.45), 0)


def draw_eyes(pen: Pen, scene: Scene) -> None:
    """One, two or three eyes."""
    h = BODY[scene.shape][1]
    y = -0.24 * h if scene.shape != "triangle" else -0.02
    spots = {1: [(0.0, 0.4)], 2: [(-0.37, 0.32), (0.37, 0.32)], 3: [(-0.56, 0.27), (0.0, 0.27), (0.56, 0.27)]}
    for x, r in spots[scene.eyes]:
        drop = y if scene.eyes < 3 or x else y - 0.3
        squeeze = 0.78 if scene.shape in ("tall", "triangle") and scene.eyes == 3 else 1.0
        pen.disc(x * squeeze, drop, r, r, (255, 255, 255), 1.4)
        pen.disc(x * squeeze, drop, r * 0.52, r * 0.52, INK, 0)


def draw_mouth(pen: Pen, scene: Scene) -> None:
    """The mouth's five kinds."""
    h = BODY[scene.shape][1]
    y = 0.36 * h if scene.shape != "triangle" else 0.55
    if scene.mouth == "smile":
        pen.stroke(arc(0, y - 0.14, 0.4, 0.28, 20, 160))
    elif scene.mouth == "frown":
        pen.stroke(arc(0, y + 0.26, 0.38, 0.28, 200, 340))
    elif scene.mouth == "open":
        pen.disc(0, y + 0.06, 0.26, 0.26, (150, 30, 50))
    elif scene.mouth == "teeth":
        pen.shape([(-0.42, y - 0.1), (0.42, y - 0.1), (0.42, y + 0.2), (-0.42, y + 0.2)], (255, 255, 255), 1.6)
        pen.stroke([(0, y - 0.08), (0, y + 0.18)], width=1.4)


def draw_creature(pen: Pen, scene: Scene) -> None:
    """The whole creature, back to front."""
    body = COLOURS[scene.colour]
    draw_top(pen, scene, body)
    draw_feet(pen, scene, body)
    pen.shape(body_points(scene.shape), body)
    draw_pattern(pen, scene, body)
    draw_eyes(pen, scene)
    draw_mouth(pen, scene)
    if scene.top == "hat":
        draw_hat(pen, scene)


# ------------------------------------------------------------------------------------------------------ objects


def _house(pen: Pen, c: RGB) -> None:
    pen.shape([(-0.8, 1), (-0.8, -0.1), (0.8, -0.1), (0.8, 1)], c)
    pen.shape([(-1.1, -0.1), (0, -1.05), (1.1, -0.1)], blend(c, INK, 0.5))
    pen.shape([(-0.22, 1), (-0.22, 0.35), (0.22, 0.35), (0.22, 1)], (255, 255, 255))


def _tree(pen: Pen, c: RGB) -> None:
    pen.shape([(-0.22, 1.1), (-0.22, 0.2), (0.22, 0.2), (0.22, 1.1)], (120, 78, 48))
    pen.disc(0, -0.3, 0.9, 0.8, c)


def _star(pen: Pen, c: RGB) -> None:
    radii = [1.15 if i % 2 == 0 else 0.5 for i in range(10)]
    turns = [math.radians(36 * i - 90) for i in range(10)]
    pen.shape([(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, turns, strict=True)], c)


def _heart(pen: Pen, c: RGB) -> None:
    angles = [math.radians(9 * i) for i in range(40)]
    curve = [(16 * math.sin(a) ** 3, 13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a)) for a in angles]
    pen.shape([(x / 15, -y / 15) for x, y in curve], c)


def _car(pen: Pen, c: RGB) -> None:
    pen.shape([(-0.7, -0.05), (-0.45, -0.6), (0.4, -0.6), (0.75, -0.05)], (210, 235, 250))
    pen.shape(soft_box(1.2, 0.35, 0.2, 0.25), c)
    for x in (-0.62, 0.62):
        pen.disc(x, 0.62, 0.3, 0.3, INK, 0)


def _fish(pen: Pen, c: RGB) -> None:
    pen.shape([(0.5, 0), (1.2, -0.55), (1.2, 0.55)], c)
    pen.disc(-0.2, 0, 0.95, 0.65, c)
    pen.disc(-0.62, -0.15, 0.17, 0.17, INK, 0)


def _flower(pen: Pen, c: RGB) -> None:
    pen.stroke([(0, 0), (0, 1.15)], (40, 130, 60), 3.2)
    for i in range(6):
        a = math.radians(60 * i)
        pen.disc(0.48 * math.cos(a), -0.35 + 0.48 * math.sin(a), 0.32, 0.32, c, 0)
    pen.disc(0, -0.35, 0.3, 0.3, (255, 235, 120) if c != COLOURS["yellow"] else (150, 90, 40), 0)


def _mushroom(pen: Pen, c: RGB) -> None:
    pen.shape(soft_box(0.35, 0.55, 0.15, 0.5), (250, 240, 215))
    pen.shape(arc(0, 0.05, 1.1, 1.0, 180, 360), c)


def _boat(pen: Pen, c: RGB) -> None:
    pen.shape([(-0.08, 0.3), (-0.08, -1.1), (0.85, 0.15)], (255, 255, 255))
    pen.shape([(-1.15, 0.35), (1.15, 0.35), (0.7, 0.95), (-0.7, 0.95)], c)


def _balloon(pen: Pen, c: RGB) -> None:
    pen.stroke([(0, 0.4), (0, 1.2)], INK, 1.8)
    pen.disc(0, -0.3, 0.72, 0.85, c)


def _cup(pen: Pen, c: RGB) -> None:
    pen.disc(0.75, 0.05, 0.4, 0.4, c)
    pen.disc(0.75, 0.05, 0.14, 0.14, (255, 255, 255), 0)
    pen.shape([(-0.8, -0.7), (0.8, -0.7), (0.62, 0.85), (-0.62, 0.85)], c)


def _moon(pen: Pen, c: RGB) -> None:
    pen.shape([*arc(0, 0, 1.05, 1.05, 60, 300), *reversed(arc(0.35, 0, 0.82, 0.9, 80, 280))], c)


PAINTERS: dict[str, Callable[[Pen, RGB], None]] = {
    "house": _house, "tree": _tree, "star": _star, "heart": _heart, "car": _car, "fish": _fish, "flower": _flower,
    "mushroom": _mushroom, "boat": _boat, "balloon": _balloon, "cup": _cup, "moon": _moon,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------- scenes


def companion_pen(brush: ImageDraw.ImageDraw, main: Point) -> Pen:
    """The place of a second, smaller thing: on the other side of the sheet."""
    return Pen(brush, (50.0 if main[0] < SIZE / 2 else 14.0, 43.0), 9.0)


def draw_scene(scene: Scene) -> Image.Image:
    """The scene as a 64x64 RGB image."""
    sheet, brush = canvas(BACKGROUNDS[scene.background])
    if scene.companion:
        PAINTERS[scene.companion](companion_pen(brush, scene.centre), COLOURS[scene.companion_colour])
    pen = Pen(brush, scene.centre, scene.scale, scene.tilt)
    if scene.kind == "creature":
        draw_creature(pen, scene)
    else:
        PAINTERS[scene.kind](pen, COLOURS[scene.colour])
    return sheet.reduce(SUPERSAMPLE)


def sample_name(rng: random.Random) -> str:
    """A made-up pronounceable name such as "zolt" or "brimpa"."""
    name = rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)
    name += rng.choice(VOWELS) if rng.random() < 0.4 else ""
    return name + (rng.choice("xyoks") if rng.random() < 0.2 else "")


def sample_scene(rng: random.Random) -> Scene:
    """Random attributes: seven creatures to three objects, one creature in seven with a name."""
    creature = rng.random() < 0.7
    background = rng.choice(list(BACKGROUNDS))
    paints = [c for c in COLOURS if c != background]
    companion = rng.choice(OBJECTS) if creature and rng.random() < 0.15 else ""
    size = "small" if companion else rng.choice(SIZES)
    position = rng.choice(("left", "right") if companion else POSITIONS)
    scale = rng.uniform(13.5, 14.5) if size == "small" else rng.uniform(17.5, 19.0)
    shift = {"left": -11.0, "centre": 0.0, "right": 11.0}[position] * (1.0 if size == "small" else 0.75)
    centre = (SIZE / 2 + shift + rng.uniform(-1.5, 1.5), SIZE / 2 + 2 + rng.uniform(-2, 2))
    return Scene(
        kind="creature" if creature else rng.choice(OBJECTS),
        colour=rng.choice(paints),
        background=background,
        size=size,
        position=position,
        centre=centre,
        scale=scale,
        tilt=rng.uniform(-8, 8),
        shape=rng.choice(SHAPES),
        eyes=rng.choice((1, 2, 2, 3)),
        top=rng.choice(TOPS),
        top_colour=rng.choice(paints),
        feet=rng.choice(FEET),
        feet_colour=rng.choice(paints),
        mouth=rng.choice(MOUTHS),
        pattern=rng.choice(("none", *PATTERNS)),
        name=sample_name(rng) if creature and rng.random() < 0.14 else "",
        companion=companion,
        companion_colour=rng.choice(paints),
    )
