"""The same image twice: equal, in another version, mirrored, or in two roles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from engine.dataset.report.findings import Case, Finding, Kind
from engine.dataset.report.likeness import MAX_DISTANCE, MIN_CORRELATION

if TYPE_CHECKING:
    from pathlib import Path

    from engine.dataset.images import ImageInfo
    from engine.dataset.report.survey import Survey

_LIKE = (
    "The perceptual hashes (ImageHash's phash, 64 bits) of one and of the full image or its middle part differ in "
    f"at most {MAX_DISTANCE} bits, and their aligned thumbnails correlate by {MIN_CORRELATION}"
)

DUPLICATE = Kind(
    "duplicate",
    "warning",
    "Copies",
    "All pixels are equal when decoded and rotated upright.",
    "Each copy counts: its content is learned more strongly than the rest.",
    "Keep one; to give it more weight on purpose, give its folder more repeats.",
    "Keeps the first that has a caption, and leaves the others out of the copy.",
)
NEAR = Kind(
    "near-duplicate",
    "warning",
    "Versions of one image",
    f"{_LIKE}. This finds an image that was compressed, resized, brightened, or trimmed by up to 12 %.",
    "Versions of one image count like copies of it.",
    "Keep the best version.",
)
MIRRORED = Kind(
    "mirrored",
    "warning",
    "Mirrored images",
    f"{_LIKE}, when one of them is mirrored.",
    "No face or figure is symmetric: a parting, a mole, a logo on the left is then learned on both sides, and "
    "generated on neither or on both.",
    "Keep the one that is not mirrored. Selfies are often stored mirrored.",
)
LEAK = Kind(
    "in-two-roles",
    "warning",
    "An image in two roles",
    "An image, or a version of it, is trained on and also used for validation or regularization.",
    "In the validation set, it makes the validation loss too low. As regularization, it works against the training.",
    "Keep it in one of the two.",
)
KINDS = (DUPLICATE, NEAR, MIRRORED, LEAK)


def find(survey: Survey) -> Iterator[Finding]:
    """Yield the findings of this group."""
    copies = survey.copies
    for kind, groups in ((DUPLICATE, copies.exact), (NEAR, copies.near), (MIRRORED, copies.mirrored)):
        if groups:
            yield Finding(kind, tuple(Case(tuple(image.path for image in group)) for group in groups))
    roles = _roles(survey)
    mixed = [
        Case(tuple(image.path for image in group), _roles_text(group, roles))
        for group in (*copies.exact, *copies.near)
        if len({roles[image.path] for image in group}) > 1
    ]
    if mixed:
        yield Finding(LEAK, tuple(mixed))


def _roles(survey: Survey) -> dict[Path, str]:
    names = {(False, False): "training", (True, False): "regularization", (False, True): "validation"}
    return {
        image.path: names[subset.is_reg, subset.is_validation]
        for subset in survey.scan.subsets
        for image in subset.images
    }


def _roles_text(group: Sequence[ImageInfo], roles: dict[Path, str]) -> str:
    return " and ".join(dict.fromkeys(roles[image.path] for image in group))
