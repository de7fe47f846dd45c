"""Masks that leave nothing to train on, or that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.dataset.pixels import mask_of
from engine.dataset.report.findings import Case, Finding, Kind
from engine.errors import DataError

if TYPE_CHECKING:
    from engine.dataset.images import ImageInfo
    from engine.dataset.report.survey import Survey

UNREADABLE = Kind(
    "mask-unreadable",
    "error",
    "Unreadable masks",
    "The mask of an image cannot be decoded.",
    "Training does not start.",
    "Replace the mask, or remove the image and its mask.",
)
EMPTY = Kind(
    "mask-empty",
    "warning",
    "Nothing to train on",
    "The red channel of the image's mask is 0 everywhere, or with dataset.alpha_mask the whole image is transparent.",
    "Its loss is always 0: it uses steps without learning anything.",
    "Paint the parts to learn white in the mask.",
)
KINDS = (UNREADABLE, EMPTY)


def find(survey: Survey) -> Iterator[Finding]:
    """Yield the findings of this group."""
    unreadable: list[Case] = []
    empty: list[Case] = []
    for subset in survey.scan.subsets:
        alpha = survey.table(subset).alpha_mask
        for image in subset.images:
            measures = survey.measures.get(image.path)
            if measures is None:
                continue
            if image.mask_path is None:
                if alpha and measures.invisible:
                    empty.append(Case((image.path,), "fully transparent"))
                continue
            try:
                black = _is_black(image)
            except DataError as error:
                unreadable.append(Case((image.path,), error.message))
                continue
            if black:
                empty.append(Case((image.path,), f"{image.mask_path.name} is black"))
    for kind, cases in ((UNREADABLE, unreadable), (EMPTY, empty)):
        if cases:
            yield Finding(kind, tuple(cases))


def _is_black(image: ImageInfo) -> bool:
    extrema = mask_of(image, (image.width, image.height)).getextrema()
    return extrema[1] == 0
