"""Broken and unusual files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.dataset.decoding import EXTENSIONS
from engine.dataset.report.findings import Case, Finding, Kind

if TYPE_CHECKING:
    from engine.dataset.pictures import Picture
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
    "The file has a picture's name and cannot be decoded to its end, is below 16 px, is above "
    "dataset.max_image_megapixels, or cannot be read.",
    "The training goes without these pictures.",
    "Replace them, or take them away.",
    "Leaves it out of the copy.",
)
STRAY = Kind(
    "stray-file",
    "note",
    "Other files",
    "The file is neither a picture nor what usually lies beside pictures.",
    "They are not read.",
    "Nothing needs to be done; frames of a video must be saved as pictures to be used.",
    noun="file",
)
CMYK = Kind(
    "cmyk",
    "note",
    "CMYK",
    "The samples are CMYK.",
    "It is turned into RGB without its colour profile, so colours shift.",
    "Save it as RGB in an image editor, which knows the profile.",
    _SAVED,
)
SIXTEEN_BIT = Kind(
    "16-bit",
    "note",
    "16 bits a channel",
    "The samples are 16-bit grey. (16-bit colour is read as 8-bit by Pillow itself, and is not told.)",
    "It is scaled to 8 bits and has no colour; other trainers cut off all that is above 255.",
    "Save it with 8 bits to see what is trained.",
    _SAVED,
)
ANIMATED = Kind(
    "animated",
    "note",
    "Several in one file",
    "The file has more than one frame or page.",
    "Only the first one is used.",
    "Save the best frame as a picture of its own.",
    "Saves the first one as an 8-bit RGB PNG.",
)
TRANSPARENT = Kind(
    "transparent",
    "note",
    "Transparent parts",
    "At least 0.1 % of the pixels can be seen through.",
    "They get the colour dataset.alpha_background; other trainers show what lies under them, often black or noise.",
    "Choose the background, or set dataset.alpha_mask so that these parts do not count.",
    "Lays it on dataset.alpha_background.",
)
ROTATED = Kind(
    "rotated",
    "note",
    "Turned by EXIF",
    "EXIF's orientation is not 1.",
    "It is turned upright here; Kohya's scripts do not look at EXIF and train on it lying.",
    "Nothing needs to be done here.",
    _SAVED,
)
WRONG_NAME = Kind(
    "wrong-extension",
    "note",
    "Wrong extension",
    "The extension is none of the format's.",
    "It is read by its content here; other programs may refuse it.",
    "Nothing needs to be done here.",
    "Gives it the extension of its format.",
)
RARE = Kind(
    "rare-format",
    "note",
    "HEIC or AVIF",
    "The format is HEIC or AVIF.",
    "It is read here; other trainers skip it without a word.",
    "Nothing needs to be done here.",
    _SAVED,
)
KINDS = (BROKEN, STRAY, CMYK, SIXTEEN_BIT, ANIMATED, TRANSPARENT, ROTATED, WRONG_NAME, RARE)


def find(survey: Survey) -> Iterator[Finding]:
    """The findings of this group."""
    cases: dict[str, list[Case]] = {kind.code: [] for kind in KINDS}
    for rejected in (*survey.scan.rejected, *survey.broken):
        kind = BROKEN if rejected.path.suffix.lower() in EXTENSIONS else STRAY
        cases[kind.code].append(Case((rejected.path,), rejected.reason if kind is BROKEN else ""))
    for picture, measures in survey.measured():
        for kind, said in _unusual(picture, measures):
            cases[kind.code].append(Case((picture.path,), said))
    for kind in KINDS:
        if cases[kind.code]:
            yield Finding(kind, tuple(cases[kind.code]))


def _unusual(picture: Picture, measures: Measures) -> Iterator[tuple[Kind, str]]:
    if measures.mode == "CMYK":
        yield CMYK, ""
    if measures.mode.startswith("I;16"):
        yield SIXTEEN_BIT, ""
    if any("only the first is used" in note or "only the first frame is used" in note for note in picture.notes):
        yield ANIMATED, next(note for note in picture.notes if ": only the first" in note).partition(":")[0]
    if measures.transparent >= 0.001:
        yield TRANSPARENT, f"{measures.transparent:.1%}"
    if measures.orientation != 1:
        lying = ", and trained on lying (kohya_exact)" if picture.kohya_exact else ""
        yield ROTATED, f"orientation {measures.orientation}{lying}"
    suffix = picture.path.suffix.lower()
    if suffix not in _SUFFIXES.get(picture.format, {suffix}):
        yield WRONG_NAME, f"it is {picture.format}"
    if picture.format in ("HEIF", "AVIF"):
        yield RARE, ""
