"""Left and right: whether the set is mirrored, and the directions in which its subjects face.

Pixels do not show whether an image is mirrored. So this reads captions and EXIF, finds images that exist in both
orientations (`duplicates`), and reports for how many images the direction is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.dataset.report.findings import Case, Finding, Kind
from engine.text import plural

if TYPE_CHECKING:
    from engine.dataset.images import ImageInfo
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
    "Half of the images are mirrored at random. A face is not symmetric, and neither is a parting, a scar, a logo, "
    "writing or a one-sided costume: the LoRA learns the average of both sides.",
    "Switch dataset.flip_aug off for a person or character. It is harmless for styles and symmetric objects.",
)
FACING = Kind(
    "facing",
    "note",
    "Which way they face",
    "Always reported for training images, from their captions (facing, looking, turned left or right; from side, "
    "profile).",
    "A subject only seen from one side is generated from that side, or mirrored if the prompt asks for the other side.",
    "Add images from both sides, and name the visible side in the captions.",
)
FRONT_CAMERA = Kind(
    "front-camera",
    "note",
    "Taken with a front camera",
    "The EXIF lens is a front camera, or the EXIF orientation mirrors the image.",
    "Phones store some selfies mirrored, so left and right may be swapped.",
    "Compare with an image of the main camera (parting, writing), and mirror wrong ones in an image editor.",
)
MIRROR_HINT = Kind(
    "mirror-hint",
    "note",
    "The caption mentions a mirror",
    "The caption contains mirror selfie, mirrored, reversed text, in a mirror, or reflection in.",
    "A mirror swaps left and right.",
    "Mirror such images in an image editor, or leave them out if the subject is a face.",
)
KINDS = (FLIP_AUG, FACING, FRONT_CAMERA, MIRROR_HINT)


def find(survey: Survey) -> Iterator[Finding]:
    """Yield the findings of this group."""
    mirroring = [subset for subset in survey.scan.train_subsets if survey.table(subset).flip_aug]
    if mirroring:
        both = len(survey.copies.mirrored)
        text = f"{plural(both, 'image')} of the set {'has' if both == 1 else 'have'} a mirrored copy." if both else ""
        yield Finding(FLIP_AUG, text=text)
    training = survey.training
    if training:
        yield Finding(FACING, text=_directions(training))
    front = [
        Case((image.path,), measures.lens if _FRONT.search(measures.lens) else "mirrored by EXIF")
        for image, measures in survey.measured(survey.scan.train_subsets)
        if _FRONT.search(measures.lens) or measures.orientation in _MIRRORING
    ]
    if front:
        yield Finding(FRONT_CAMERA, tuple(front))
    hints = [Case((image.path,)) for image in training if image.caption and _MIRROR.search(image.caption)]
    if hints:
        yield Finding(MIRROR_HINT, tuple(hints))


def _directions(training: list[ImageInfo]) -> str:
    """Counts of directions in the captions, and of images without one."""
    left = right = side = 0
    for image in training:
        text = image.caption or ""
        if _LEFT.search(text):
            left += 1
        elif _RIGHT.search(text):
            right += 1
        elif _SIDE.search(text):
            side += 1
    unknown = len(training) - left - right - side
    if unknown == len(training):
        return "Unknown: no caption has a direction, and pixels do not show whether an image is mirrored."
    text = f"According to captions: {left} to the left, {right} to the right, {side} from an unnamed side."
    return text + (f" Unknown for {plural(unknown, 'image')}." if unknown else "")
