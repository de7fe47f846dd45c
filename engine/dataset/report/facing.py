"""Left and right: whether the set keeps them apart, and what is known about which way its subjects face.

Pixels do not tell which way is right: a mirrored face looks as good as the other. So this reads what captions and EXIF
say, finds pictures that are there both ways (`duplicates`), and says plainly of how many pictures nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.dataset.report.findings import Case, Finding, Kind
from engine.text import plural

if TYPE_CHECKING:
    from engine.dataset.pictures import Picture
    from engine.dataset.report.survey import Survey

_TO_THE_LEFT = (
    r"\b(?:facing|looking|turned|turning|profile)\s+(?:to\s+)?(?:(?:the|her|his|their)\s+)?left\b"
    r"|\bleft[- ](?:facing|profile)\b"
)
_LEFT = re.compile(_TO_THE_LEFT, re.IGNORECASE)
_RIGHT = re.compile(_TO_THE_LEFT.replace("left", "right"), re.IGNORECASE)
_SIDE = re.compile(r"\b(?:from side|side view|side profile|in profile|profile|three[- ]quarter view)\b", re.IGNORECASE)
_MIRROR = re.compile(
    r"\b(?:mirror selfie|mirrored(?: text)?|reversed text|in (?:a|the) mirror|reflection in)\b", re.IGNORECASE
)
_FRONT = re.compile(r"\bfront\b|\bselfie\b", re.IGNORECASE)
_MIRRORING = frozenset({2, 4, 5, 7})

FLIP_AUG = Kind(
    "flip-aug",
    "warning",
    "Mirroring is on (flip_aug)",
    "dataset.flip_aug is on for a subset that is trained on.",
    "Half of the pictures are mirrored at random. A face is not symmetric, and neither is a parting, a scar, a logo, "
    "writing or a one-sided costume: the LoRA learns the average of both sides.",
    "Switch dataset.flip_aug off for a person or character. It does no harm for styles and for things that are "
    "symmetric.",
)
FACING = Kind(
    "facing",
    "note",
    "Which way they face",
    "Always told for pictures that are trained on: what captions say (facing, looking, turned left or right; from "
    "side, profile).",
    "A subject that is only seen from one side is drawn from that side, or mirrored where the other side is asked for.",
    "Have pictures from both sides, and say in the captions which one is seen: the side that the picture shows.",
)
FRONT_CAMERA = Kind(
    "front-camera",
    "note",
    "Taken with a front camera",
    "EXIF's lens is a front camera, or EXIF's orientation mirrors the picture.",
    "Phones store some selfies mirrored, so these may show left and right exchanged.",
    "Compare with a picture of the main camera (parting, writing), and mirror those that are wrong in an image editor.",
)
MIRROR_HINT = Kind(
    "mirror-hint",
    "note",
    "The caption speaks of a mirror",
    "The caption has mirror selfie, mirrored, reversed text, in a mirror, or reflection in.",
    "What is seen in a mirror has left and right exchanged.",
    "Mirror such pictures in an image editor, or leave them out if the subject is a face.",
)
KINDS = (FLIP_AUG, FACING, FRONT_CAMERA, MIRROR_HINT)


def find(survey: Survey) -> Iterator[Finding]:
    """The findings of this group."""
    mirroring = [subset for subset in survey.scan.train_subsets if survey.table(subset).flip_aug]
    if mirroring:
        both = len(survey.copies.mirrored)
        said = (
            f"{plural(both, 'picture')} of the set {'is' if both == 1 else 'are'} there both ways already."
            if both
            else ""
        )
        yield Finding(FLIP_AUG, said=said)
    training = survey.training
    if training:
        yield Finding(FACING, said=_told(training))
    front = [
        Case((picture.path,), measures.lens if _FRONT.search(measures.lens) else "EXIF mirrors it")
        for picture, measures in survey.measured(survey.scan.train_subsets)
        if _FRONT.search(measures.lens) or measures.orientation in _MIRRORING
    ]
    if front:
        yield Finding(FRONT_CAMERA, tuple(front))
    hints = [Case((one.path,)) for one in training if one.caption and _MIRROR.search(one.caption)]
    if hints:
        yield Finding(MIRROR_HINT, tuple(hints))


def _told(training: list[Picture]) -> str:
    """How many captions say which way, and of how many pictures nothing is known."""
    left = right = side = 0
    for picture in training:
        text = picture.caption or ""
        if _LEFT.search(text):
            left += 1
        elif _RIGHT.search(text):
            right += 1
        elif _SIDE.search(text):
            side += 1
    unknown = len(training) - left - right - side
    if unknown == len(training):
        return "No caption says it, and pixels do not tell whether a picture is mirrored: it is not known."
    said = f"By their captions {left} to the left, {right} to the right, {side} from a side that is not named."
    return said + (f" Of {plural(unknown, 'picture')} it is not known." if unknown else "")
