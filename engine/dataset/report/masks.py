"""Masks that leave nothing to train on, or that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.dataset.pixels import mask_of
from engine.dataset.report.findings import Case, Finding, Kind
from engine.errors import DataError

if TYPE_CHECKING:
    from engine.dataset.pictures import Picture
    from engine.dataset.report.survey import Survey

UNREADABLE = Kind(
    "mask-unreadable",
    "error",
    "Unreadable masks",
    "The mask of an image cannot be decoded.",
    "The training does not start.",
    "Replace the mask, or remove the image and its mask.",
)
EMPTY = Kind(
    "mask-empty",
    "warning",
    "Nothing is trained on",
    "The red channel of the image's mask is 0 everywhere, or with dataset.alpha_mask the whole image is transparent.",
    "Its loss is always 0: it takes its share of the steps, and nothing is learned from it.",
    "Paint white in the mask what is to be learned.",
)
KINDS = (UNREADABLE, EMPTY)


def find(survey: Survey) -> Iterator[Finding]:
    """The findings of this group."""
    unreadable: list[Case] = []
    empty: list[Case] = []
    for subset in survey.scan.subsets:
        alpha = survey.table(subset).alpha_mask
        for picture in subset.pictures:
            measures = survey.measures.get(picture.path)
            if measures is None:
                continue
            if picture.mask_path is None:
                if alpha and measures.invisible:
                    empty.append(Case((picture.path,), "wholly transparent"))
                continue
            try:
                black = _is_black(picture)
            except DataError as error:
                unreadable.append(Case((picture.path,), error.message))
                continue
            if black:
                empty.append(Case((picture.path,), f"{picture.mask_path.name} is black"))
    for kind, cases in ((UNREADABLE, unreadable), (EMPTY, empty)):
        if cases:
            yield Finding(kind, tuple(cases))


def _is_black(picture: Picture) -> bool:
    extrema = mask_of(picture, (picture.width, picture.height)).getextrema()
    return extrema[1] == 0
