"""Captions for the demo's drawn world: varied wording, shuffled order, attributes left out at random."""

from __future__ import annotations

import random

from demo_pen import COLOURS
from demo_world import FEET, MOUTHS, OBJECTS, PATTERNS, POSITIONS, SHAPES, SIZES, TOPS, Scene

COLOUR_NAMES = tuple(COLOURS)
LABELS: dict[str, tuple[object, ...]] = {
    "kind": ("creature", *OBJECTS),
    "colour": COLOUR_NAMES,
    "background": COLOUR_NAMES,
    "size": SIZES,
    "position": POSITIONS,
    "shape": SHAPES,
    "eyes": (1, 2, 3),
    "top": TOPS,
    "top_colour": COLOUR_NAMES,
    "feet": FEET,
    "feet_colour": COLOUR_NAMES,
    "mouth": MOUTHS,
    "pattern": PATTERNS,
    "companion": ("", *OBJECTS),
    "companion_colour": COLOUR_NAMES,
}
NOUNS = ("monster", "creature", "critter", "beast")
SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
SHAPE_WORDS = {
    "round": ("round", "ball-shaped"),
    "square": ("square", "boxy"),
    "tall": ("tall", "long"),
    "wide": ("wide", "flat"),
    "triangle": ("triangle", "triangular"),
}
EYE_WORDS = {1: ("one eye", "a single eye"), 2: ("two eyes", "a pair of eyes"), 3: ("three eyes", "3 eyes")}
MOUTH_WORDS = {
    "none": ("no mouth",),
    "smile": ("a smile", "a happy face"),
    "frown": ("a frown", "a sad face"),
    "open": ("an open mouth", "a round mouth"),
    "teeth": ("big teeth", "teeth"),
}
PATTERN_WORDS = {
    "none": ("a plain body",),
    "spots": ("spots", "dots"),
    "belly": ("a pale belly", "a light tummy"),
    "stripe": ("a dark stripe", "a stripe"),
}
GROUND_WORDS = ("on {} background", "on {bare}", "on {} backdrop", "in front of {} wall", "with {} background")
POSITION_WORDS = {
    "left": ("on the left", "at the left side"),
    "centre": ("in the middle", "in the centre"),
    "right": ("on the right", "at the right side"),
}


def article(phrase: str) -> str:
    """The phrase with "a" or "an"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _noun(scene: Scene, rng: random.Random, named: set[str]) -> str:
    """The thing itself with some of its adjectives, such as "big red round monster"."""
    creature = scene.kind == "creature"
    named.add("kind")
    words: list[str] = []
    if rng.random() < 0.35:
        named.add("size")
        words.append(rng.choice(SIZE_WORDS[scene.size]))
    if rng.random() < 0.85:
        named.add("colour")
        words.append(scene.colour)
    if creature and rng.random() < 0.6:
        named.add("shape")
        words.append(rng.choice(SHAPE_WORDS[scene.shape]))
    if rng.random() < 0.3:
        rng.shuffle(words)
    return " ".join([*words, rng.choice(NOUNS) if creature else scene.kind])


def _features(scene: Scene, rng: random.Random, named: set[str], keep: float) -> list[str]:
    """The creature's parts that this caption names, shuffled."""
    parts: list[str] = []

    def name(attribute: str, phrase: str, chance: float) -> None:
        if rng.random() < chance:
            named.add(attribute)
            parts.append(phrase)

    name("eyes", rng.choice(EYE_WORDS[scene.eyes]), keep)
    name("mouth", rng.choice(MOUTH_WORDS[scene.mouth]), keep if scene.mouth != "none" else keep * 0.2)
    name("pattern", rng.choice(PATTERN_WORDS[scene.pattern]), keep if scene.pattern != "none" else keep * 0.15)
    if scene.top == "hat" and rng.random() < 0.8:
        named.update({"top_colour"} if rng.random() < keep else set())
        name("top", article(f"{scene.top_colour} hat") if "top_colour" in named else "a hat", keep)
    elif scene.top == "none":
        name("top", "nothing on its head", keep * 0.12)
    else:
        name("top", "a hat" if scene.top == "hat" else scene.top, keep)
    if scene.feet == "boots" and rng.random() < 0.8:
        named.update({"feet_colour"} if rng.random() < keep else set())
        name("feet", f"{scene.feet_colour} boots" if "feet_colour" in named else "boots", keep)
    else:
        name(
            "feet",
            {"none": "no feet", "feet": "feet", "boots": "boots"}[scene.feet],
            keep * (0.3 if scene.feet == "none" else 1),
        )
    if "top" not in named:
        named.discard("top_colour")
    if "feet" not in named:
        named.discard("feet_colour")
    rng.shuffle(parts)
    return parts


def _listed(parts: list[str]) -> str:
    """The parts as "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def describe(scene: Scene, rng: random.Random) -> tuple[str, set[str]]:
    """A caption of the scene, and the attributes (keys of `LABELS`) that it names."""
    named: set[str] = set()
    if scene.name:
        keep = 0.12
        head = scene.name
        if rng.random() < 0.5:
            named_in_noun: set[str] = set()
            noun = rng.choice(NOUNS) if rng.random() < 0.6 else _noun(scene, rng, named_in_noun)
            named |= {"kind", *named_in_noun}
            head = f"{head}, {article(noun)}," if rng.random() < 0.5 else f"{head} the {noun}"
    else:
        keep = rng.choice((0.0, 0.4, 0.6, 0.8))
        noun = _noun(scene, rng, named)
        head = article(noun) if rng.random() < 0.8 else noun
    parts = _features(scene, rng, named, keep) if scene.kind == "creature" else []
    text = head + (rng.choice((" with ", " with ", ", ")) + _listed(parts) if parts else "")
    if scene.companion and rng.random() < 0.95:
        named |= {"companion", "companion_colour"}
        text += rng.choice((" next to ", " beside ")) + article(f"{scene.companion_colour} {scene.companion}")
    if rng.random() < 0.25:
        named.add("position")
        text += " " + rng.choice(POSITION_WORDS[scene.position])
    if rng.random() < 0.88:
        named.add("background")
        ground = rng.choice(GROUND_WORDS[:1] * 3 + GROUND_WORDS)
        text += (", " if rng.random() < 0.25 or parts else " ") + ground.format(
            article(scene.background), bare=scene.background
        )
    if rng.random() < 0.06:
        text = rng.choice(("a picture of ", "a drawing of ", "a cartoon of ")) + text
    return text.replace(",,", ","), named


def label_index(scene: Scene, attribute: str) -> int:
    """The class number of an attribute's value."""
    return LABELS[attribute].index(getattr(scene, attribute))
