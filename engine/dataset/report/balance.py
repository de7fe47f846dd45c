"""Regularization pictures against training pictures."""

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
    "Of one dataset, pictures × repeats for regularization are fewer than half or more than one and a half times "
    "those trained on.",
    "An epoch takes as many of them as training items: too few are repeated and learnt by heart, of too many the "
    "last are never used.",
    "Have about as many regularization items as training items; the repeats in the folders' names balance them.",
)
TRIGGERED = Kind(
    "reg-trigger",
    "warning",
    "Regularization with the trigger word",
    "The caption of a regularization picture, or its class word, has the trigger word.",
    "It teaches that the trigger word means any of the class: the opposite of what is wanted.",
    "Take the trigger word out of these captions, and name the folder by the class alone.",
)
KINDS = (BALANCE, TRIGGERED)


def find(survey: Survey) -> Iterator[Finding]:
    """The findings of this group."""
    scan = survey.scan
    said = []
    for number in sorted({subset.dataset for subset in scan.reg_subsets}):
        training, regularizing = (
            sum(len(one.pictures) * one.num_repeats for one in subsets if one.dataset == number)
            for subsets in (scan.train_subsets, scan.reg_subsets)
        )
        if training and not training / 2 <= regularizing <= training * 1.5:
            said.append(f"{plural(training, 'training item')}, {plural(regularizing, 'regularization item')}.")
    if said:
        yield Finding(BALANCE, said=" ".join(said))
    trigger = survey.config.dataset.class_tokens
    if trigger:
        cases = [
            Case((picture.path,))
            for subset in scan.reg_subsets
            for picture in subset.pictures
            if has_word(subset.text(picture), trigger)
        ]
        if cases:
            yield Finding(TRIGGERED, tuple(cases))
