"""Regularization images against training images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.dataset.caption_files import has_word
from engine.dataset.report.findings import Case, Finding, Kind
from engine.text import plural

if TYPE_CHECKING:
    from engine.dataset.report.survey import Survey

BALANCE = Kind(
    "reg-balance",
    "warning",
    "Regularization out of balance",
    "In a dataset, the regularization items (images × repeats) are fewer than half or more than one and a half times "
    "the training items.",
    "An epoch uses as many of them as training items: too few are repeated and memorized, of too many the last are "
    "never used.",
    "Have about as many regularization items as training items; the repeats in the folders' names balance them.",
)
TRIGGERED = Kind(
    "reg-trigger",
    "warning",
    "Regularization with the trigger word",
    "The caption of a regularization image, or its class word, has the trigger word.",
    "It teaches that the trigger word means the whole class: the opposite of the goal.",
    "Remove the trigger word from these captions, and name the folder after the class only.",
)
KINDS = (BALANCE, TRIGGERED)


def find(survey: Survey) -> Iterator[Finding]:
    """Yield the findings of this group."""
    scan = survey.scan
    imbalances = []
    for number in sorted({subset.dataset for subset in scan.reg_subsets}):
        training, regularizing = (
            sum(len(subset.images) * subset.num_repeats for subset in subsets if subset.dataset == number)
            for subsets in (scan.train_subsets, scan.reg_subsets)
        )
        if training and not training / 2 <= regularizing <= training * 1.5:
            imbalances.append(f"{plural(training, 'training item')}, {plural(regularizing, 'regularization item')}.")
    if imbalances:
        yield Finding(BALANCE, text=" ".join(imbalances))
    trigger = survey.config.dataset.class_tokens
    if trigger:
        cases = [
            Case((image.path,))
            for subset in scan.reg_subsets
            for image in subset.images
            if has_word(subset.text(image), trigger)
        ]
        if cases:
            yield Finding(TRIGGERED, tuple(cases))
