"""The same picture twice: equal, in another version, mirrored, or in two roles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from engine.dataset.report.findings import Case, Finding, Kind
from engine.dataset.report.likeness import MAX_DISTANCE, MIN_CORRELATION

if TYPE_CHECKING:
    from pathlib import Path

    from engine.dataset.pictures import Picture
    from engine.dataset.report.survey import Survey

_LIKE = (
    "The perceptual hashes (ImageHash's phash, 64 bits) of one and of the whole or the middle of the other differ in "
    f"at most {MAX_DISTANCE} bits, and their aligned thumbnails correlate by {MIN_CORRELATION}"
)

DUPLICATE = Kind(
    "duplicate",
    "warning",
    "Copies",
    "All pixels are equal when decoded and turned upright.",
    "Each copy counts: what is in it is learnt more strongly than the rest.",
    "Keep one; to weigh it more on purpose, give its folder more repeats.",
    "Keeps the first that has a caption, and leaves the others out of the copy.",
)
NEAR = Kind(
    "near-duplicate",
    "warning",
    "Versions of one picture",
    f"{_LIKE}. This finds a picture that was compressed, resized, brightened, or trimmed by up to 12 %.",
    "Versions of one picture count like copies of it.",
    "Keep the best version.",
)
MIRRORED = Kind(
    "mirrored",
    "warning",
    "Mirrored pictures",
    f"{_LIKE}, when one of them is mirrored.",
    "No face or figure is symmetric: a parting, a mole, a logo on the left is then learnt on both sides, and comes "
    "out on neither or on both.",
    "Keep the one that is the right way round. Selfies are often stored mirrored.",
)
LEAK = Kind(
    "in-two-roles",
    "warning",
    "A picture in two roles",
    "A picture, or a version of it, is trained on and also held out or used for regularization.",
    "Held out, it makes the validation loss too good. As regularization, it works against the training.",
    "Keep it in one of the two.",
)
KINDS = (DUPLICATE, NEAR, MIRRORED, LEAK)


def find(survey: Survey) -> Iterator[Finding]:
    """The findings of this group."""
    copies = survey.copies
    for kind, groups in ((DUPLICATE, copies.exact), (NEAR, copies.near), (MIRRORED, copies.mirrored)):
        if groups:
            yield Finding(kind, tuple(Case(tuple(picture.path for picture in group)) for group in groups))
    roles = _roles(survey)
    mixed = [
        Case(tuple(picture.path for picture in group), _said(group, roles))
        for group in (*copies.exact, *copies.near)
        if len({roles[picture.path] for picture in group}) > 1
    ]
    if mixed:
        yield Finding(LEAK, tuple(mixed))


def _roles(survey: Survey) -> dict[Path, str]:
    names = {(False, False): "trained on", (True, False): "regularization", (False, True): "held out"}
    return {
        picture.path: names[subset.is_reg, subset.is_validation]
        for subset in survey.scan.subsets
        for picture in subset.pictures
    }


def _said(group: Sequence[Picture], roles: dict[Path, str]) -> str:
    return " and ".join(dict.fromkeys(roles[picture.path] for picture in group))
