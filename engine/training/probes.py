"""Probes: the images, with captions, that a run is measured on. Always the same, so that two values differ only because
of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.dataset.captions import CaptionRules, deterministic
from engine.dataset.items import Item
from engine.dataset.reach import PROBED

EVERYDAY_PROMPTS = (
    "a red house", "a green tree", "a car on a street", "a blue cup on a white table", "a yellow flower", "a black cat",
    "a boat on the sea", "a bowl of fruit",
)  # fmt: skip
"""Short prompts of common things, unrelated to nearly every LoRA."""


@dataclass(frozen=True)
class Probe:
    """One image of every check."""

    item: Item
    number: int
    """Its index among the validation or the training probes; seeds its noise."""
    is_validation: bool
    """A validation image, else a training image."""
    caption: str
    other: str | None
    """The caption of another image; None if all are the same."""

    @property
    def captions(self) -> list[str]:
        """All captions that it is used with."""
        return [self.caption] if self.other is None else [self.caption, self.other]


def choose_probes(rules: CaptionRules, validation: Sequence[Item], items: Sequence[Item]) -> list[Probe]:
    """The probes of a run: every validation image, and `PROBED` training images, spread over the sorted paths.

    Args:
        rules: of `[dataset]`, for items without rules of their own.
        items: of an epoch; repeats and regularization images are skipped.
    """
    training = training_images(items)
    spread = spread_over(training, PROBED)
    captions = {id(item): deterministic(item.text, item.rules or rules) for item in (*validation, *spread)}
    different = list(dict.fromkeys(captions.values()))
    probes = []
    for is_validation, chosen in ((True, validation), (False, spread)):
        for number, item in enumerate(chosen):
            caption = captions[id(item)]
            following = different[(different.index(caption) + 1) % len(different)]
            other = following if following != caption else None
            probes.append(Probe(item, number, is_validation, caption, other))
    return probes


def training_images(items: Sequence[Item]) -> list[Item]:
    """The first item of each training image, by path; regularization images are skipped."""
    first = {item.image.path: item for item in reversed(items) if not item.is_reg}
    return [first[path] for path in sorted(first)]


def spread_over(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of the items, evenly spaced."""
    number = min(len(items), most)
    return [items[place * len(items) // number] for place in range(number)]
