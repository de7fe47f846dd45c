"""Broken and unusual files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.dataset.decoding import EXTENSIONS
from engine.dataset.report.findings import Case, Finding, Kind

if TYPE_CHECKING:
    from engine.dataset.images import ImageInfo
    from engine.dataset.report.measures import Measures
    from engine.dataset.report.survey import Survey

_SAVED = "Saves it as an 8-bit RGB PNG, upright."
_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"}, "MPO": {".jpg", ".jpeg", ".jpe", ".jfif"}, "PNG": {".png", ".apng"},
    "WEBP": {".webp"}, "BMP": {".bmp"}, "TIFF": {".tif", ".tiff"}, "AVIF": {".avif", ".heif", ".hif"},
    "HEIF": {".heic", ".heif", ".hif"},
}  # fmt: skip

BROKEN = Kind(
    "broken",
    "error",
    "Cannot be used",
    "The file has an image extension and cannot be decoded completely, is below 16 px, is above "
    "dataset.max_image_megapixels, or cannot be read.",
    "Training ignores these images.",
    "Replace or remove them.",
    "Leaves it out of the copy.",
)
STRAY = Kind(
    "stray-file",
    "note",
    "Other files",
    "The file is neither an image nor a usual sidecar file.",
    "They are not read.",
    "Nothing to do; save the frames of a video as images to use them.",
    noun="file",
)
CMYK = Kind(
    "cmyk",
    "note",
    "CMYK",
    "The samples are CMYK.",
    "It is converted to RGB without its colour profile, so colours shift.",
    "Save it as RGB in an image editor, which applies the profile.",
    _SAVED,
)
SIXTEEN_BIT = Kind(
    "16-bit",
    "note",
    "16 bits a channel",
    "The samples are 16-bit grey. (16-bit colour is read as 8-bit by Pillow, and is not reported.)",
    "It is scaled to 8 bits and has no colour; other trainers clip at 255.",
    "Save it with 8 bits to see the training image.",
    _SAVED,
)
ANIMATED = Kind(
    "animated",
    "note",
    "Several in one file",
    "The file has more than one frame or page.",
    "Only the first one is used.",
    "Save the best frame as a separate image.",
    "Saves the first one as an 8-bit RGB PNG.",
)
TRANSPARENT = Kind(
    "transparent",
    "note",
    "Transparent parts",
    "At least 0.1 % of the pixels are transparent.",
    "They get the colour dataset.alpha_background; other trainers use the hidden colours, often black or noise.",
    "Choose the background, or set dataset.alpha_mask to exclude these parts from the loss.",
    "Flattens it onto dataset.alpha_background.",
)
ROTATED = Kind(
    "rotated",
    "note",
    "Rotated by EXIF",
    "The EXIF orientation is not 1.",
    "It is rotated upright here; Kohya's scripts ignore EXIF and train on it unrotated.",
    "Nothing to do here.",
    _SAVED,
)
WRONG_NAME = Kind(
    "wrong-extension",
    "note",
    "Wrong extension",
    "The extension does not match the format.",
    "It is read by its content here; other programs may refuse it.",
    "Nothing to do here.",
    "Gives it the extension of its format.",
)
RARE = Kind(
    "rare-format",
    "note",
    "HEIC or AVIF",
    "The format is HEIC or AVIF.",
    "It is read here; other trainers skip it silently.",
    "Nothing to do here.",
    _SAVED,
)
KINDS = (BROKEN, STRAY, CMYK, SIXTEEN_BIT, ANIMATED, TRANSPARENT, ROTATED, WRONG_NAME, RARE)


def find(survey: Survey) -> Iterator[Finding]:
    """Yield the findings of this group."""
    cases: dict[str, list[Case]] = {kind.code: [] for kind in KINDS}
    for rejected in (*survey.scan.rejected, *survey.broken):
        kind = BROKEN if rejected.path.suffix.lower() in EXTENSIONS else STRAY
        cases[kind.code].append(Case((rejected.path,), rejected.reason if kind is BROKEN else ""))
    for image, measures in survey.measured():
        for kind, text in _unusual(image, measures):
            cases[kind.code].append(Case((image.path,), text))
    for kind in KINDS:
        if cases[kind.code]:
            yield Finding(kind, tuple(cases[kind.code]))


def _unusual(image: ImageInfo, measures: Measures) -> Iterator[tuple[Kind, str]]:
    if measures.mode == "CMYK":
        yield CMYK, ""
    if measures.mode.startswith("I;16"):
        yield SIXTEEN_BIT, ""
    if any("only the first is used" in note or "only the first frame is used" in note for note in image.notes):
        yield ANIMATED, next(note for note in image.notes if ": only the first" in note).partition(":")[0]
    if measures.transparent >= 0.001:
        yield TRANSPARENT, f"{measures.transparent:.1%}"
    if measures.orientation != 1:
        unrotated = ", trained on unrotated (kohya_exact)" if image.kohya_exact else ""
        yield ROTATED, f"orientation {measures.orientation}{unrotated}"
    suffix = image.path.suffix.lower()
    if suffix not in _SUFFIXES.get(image.format, {suffix}):
        yield WRONG_NAME, f"it is {image.format}"
    if image.format in ("HEIF", "AVIF"):
        yield RARE, ""
